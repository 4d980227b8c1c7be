"""Run directories on disk: complete or absent, whatever happens while they are written.

    config.json          what was run; complete, reloadable
    model.safetensors    the newest weights; ema.safetensors beside it, their average
    metrics.jsonl        a line every few steps
    samples/             pictures on the way
    state/step-0000123/  all that training needs to go on from step 123; the newest few are kept
    state/latest.json    which of them is the newest

A checkpoint is written into `state/tmp-...`, flushed to disk and renamed, so a folder `step-...` is complete. Nothing
here is a pickle.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from rheos.core.errors import CheckpointError, RunError
from rheos.core.files import taken

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Store",
    "fits",
    "newest",
    "read_config",
    "read_json",
    "read_tensors",
    "restore",
    "write_json",
    "write_tensors",
    "write_text",
    "writing",
]

FORMAT = 1
"""Of everything in a run directory. A loader for each earlier format stays, with a stored example."""

_TOP = ("model.safetensors", "ema.safetensors")
_OURS = ("config.json", *_TOP, "metrics.jsonl", "samples")


class Checkpoint(NamedTuple):
    """All that training needs to go on.

    Args:
        step: Completed optimiser steps.
        tensors: By file name without ending: "model", "ema" (absent without an average), "optimiser".
        state: Plain values: counters and sums of the unfinished line of metrics.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


@final
class Store:
    """A run directory opened for writing, by one process at a time.

    Args:
        path: The directory; made if absent.
        resume: Whether to go on with a run that is there.
        keep: Checkpoints kept.

    Raises:
        RunError: If a run is there and `resume` is false, other files are in the way, the directory cannot be written,
            or another process writes it.
    """

    def __init__(self, path: Path, resume: bool, keep: int) -> None:
        self.path, self.keep = path, keep
        self._check(resume)  # before anything is touched: the directory may be somebody else's
        with writing(path):
            (path / "state").mkdir(parents=True, exist_ok=True)
            self._lock = (path / "state" / "lock").open("a")
        try:
            self._take()
            self._check(resume)
            with writing(path):
                self._sweep()
        except BaseException:
            self.close()
            raise

    @property
    def began(self) -> bool:
        """Whether a run is in the directory."""
        return (self.path / "config.json").exists()

    def _take(self) -> None:
        if not taken(self._lock):
            raise RunError(f"Another process is writing {self.path}. Wait for it, or choose another directory.")

    def _sweep(self) -> None:
        """Remove what a killed process left half-written, and a beginning from which nothing was learned."""
        halves = [self.path / f".{name}.tmp" for name in _OURS]
        begun = self.path / "state" / "step-0000000"
        if begun.exists() and not self.began:
            begun.rename(begun.with_name("tmp-begun"))
        for leftover in (*self.path.glob("state/tmp-*"), *halves, *self.path.glob("samples/.*.tmp")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)

    def _check(self, resume: bool) -> None:
        if self.began:
            read_config(self.path)
            if not resume:
                newest = self.newest()
                raise RunError(
                    f"{self.path} holds a run at step {_step(newest) if newest else 0}. "
                    "Pass resume=True to continue it, or choose another directory."
                )
            return
        steps = [f.name for f in self.path.glob("state/step-*")]
        there = steps or [name for name in _OURS if (self.path / name).exists()]
        if there and there != ["step-0000000"]:  # that alone is a beginning that was cut short
            raise RunError(
                f"{self.path} holds {', '.join(there)} but no config.json, so it is no run of rheos. "
                "Choose another directory."
            )

    def begin(self, config: Mapping[str, Any], first: Checkpoint) -> None:
        """Write the first checkpoint, then the configuration that makes the directory a run."""
        self.save(first)
        write_json(self.path / "config.json", config)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all; one that is there already stays.

        Raises:
            RunError: If it cannot be written; older checkpoints are as they were.
        """
        state = self.path / "state"
        final_ = state / f"step-{checkpoint.step:07d}"
        if not final_.exists():
            temporary = state / f"tmp-{checkpoint.step:07d}"
            with writing(self.path):
                try:
                    temporary.mkdir()
                    for name, tensors in checkpoint.tensors.items():
                        write_tensors(temporary / f"{name}.safetensors", tensors)
                    written = {"format": FORMAT, "step": checkpoint.step, **checkpoint.state}
                    _write(temporary / "state.json", json.dumps(written, indent=1).encode())
                    _flush(temporary)
                    temporary.rename(final_)
                    _flush(state)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
        write_json(state / "latest.json", {"format": FORMAT, "step": checkpoint.step})
        self.publish(final_)
        with writing(self.path):
            self._prune()

    def publish(self, folder: Path) -> None:
        """Put a checkpoint's weights where people look for them; where that works, no second copy on the disk."""
        with writing(self.path):
            for name in _TOP:
                if (folder / name).exists():
                    temporary = self.path / f".{name}.tmp"
                    temporary.unlink(missing_ok=True)
                    try:
                        os.link(folder / name, temporary)
                    except OSError:
                        shutil.copyfile(folder / name, temporary)
                    temporary.replace(self.path / name)

    def _prune(self) -> None:
        newest = self.newest()
        for old in sorted(self.path.glob("state/step-*"), key=_step)[: -self.keep]:
            if old != newest:
                doomed = old.rename(old.with_name(f"tmp-{old.name}"))  # never half a folder under a good name
                shutil.rmtree(doomed)

    def newest(self) -> Path | None:
        """The newest complete checkpoint: the one that latest.json names, or, where that is gone, the last there is."""
        return newest(self.path)

    def close(self) -> None:
        """Let another process write."""
        self._lock.close()


def newest(path: Path) -> Path | None:
    """The newest complete checkpoint of a run directory."""
    folders = sorted((f for f in path.glob("state/step-*") if f.name[5:].isdigit()), key=_step)
    index = path / "state" / "latest.json"
    if index.exists():
        named = path / "state" / f"step-{int(read_json(index)['step']):07d}"
        if named in folders:
            return named
    return folders[-1] if folders else None


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: If there is no run.
        CheckpointError: If config.json is truncated, foreign, or of a newer format.
    """
    file = path / "config.json"
    if not file.is_file():
        what = "is not a directory" if not path.is_dir() else "holds no run (no config.json)"
        raise RunError(f"{path} {what}. Give the directory that train.fit wrote.")
    config = read_json(file)
    missing = {"format", "field", "objective", "options", "data", "steps"} - config.keys()
    if missing:
        raise CheckpointError(f"{file} is no run of rheos: it lacks {', '.join(sorted(missing))}.")
    return config


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a known format.

    Raises:
        CheckpointError: If the file cannot be read, is no JSON object, or is of a newer format.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.", path=file) from None
    except ValueError:
        raise CheckpointError(f"{file} is truncated or not JSON. {_way_out(file)}", path=file) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is no file of rheos. {_way_out(file)}", path=file)
    if value.get("format", FORMAT) not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"{file} has format {value['format']}, this rheos reads up to {FORMAT}. Update rheos.", path=file
        )
    return value


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: If the file is missing, truncated or foreign.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing. {_way_out(file)}", path=file) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is truncated or not a safetensors file ({error}). {_way_out(file)}", path=file
        ) from None


def _way_out(file: Path) -> str:
    if file.parent.name.startswith("step-"):
        return f"Delete the folder {file.parent.name} to go back to the checkpoint before it, if there is one."
    return "Copy it again, or train again."


def restore(module: nn.Module, tensors: Mapping[str, Tensor], file: Path | None) -> None:
    """Put weights into a network, in place, keeping its device, dtype and memory format.

    Args:
        module: The network.
        tensors: Its state, by name.
        file: Where they come from, for errors; None: from memory.

    Raises:
        CheckpointError: If names or shapes differ; nothing is changed then.
    """
    fits(module, tensors, file)
    from rheos.train.dist import place

    with torch.no_grad():
        for name, value in module.state_dict().items():
            value.copy_(place(tensors[name], value))


def fits(module: nn.Module, tensors: Mapping[str, Tensor], file: Path | None) -> None:
    """Raise `CheckpointError` unless names and shapes are those of the network's state."""
    own = module.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    if wrong:
        name = wrong[0]
        came = tuple(tensors[name].shape) if name in tensors else "nothing"
        want = tuple(own[name].shape) if name in own else "nothing"
        raise CheckpointError(
            f"{file or 'The state'} was written for another network: {len(wrong)} tensors differ, such as {name!r} "
            f"(file: {came}, network: {want}).",
            entries=wrong,
        )


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object under a temporary name, flush it to disk, rename it."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text under a temporary name, flush it to disk, rename it."""
    with writing(file):
        temporary = file.with_name(f".{file.name}.tmp")
        _write(temporary, text.encode())
        temporary.replace(file)
        _flush(file.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the file system as one sentence.

    Raises:
        RunError: In place of `OSError`.
    """
    from safetensors import SafetensorError

    try:
        yield
    except RunError:
        raise
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RunError(
            f"{path} cannot be written: {reason}. What was complete there is untouched; make room or choose another "
            "directory, then resume.",
            path=path,
        ) from error


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and flush it to disk; for folders that are renamed when they are complete."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    apart = {}
    for name, value in tensors.items():
        storage = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if storage in seen and value.numel() else value  # tied weights are written twice
        seen.add(storage)
    file.touch()
    mode = file.stat().st_mode  # what the user's umask gives; safetensors would hide the file from others
    save_file(apart, file, metadata={"format": "pt"})
    file.chmod(mode)
    with file.open("rb+") as out:
        os.fsync(out.fileno())


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
