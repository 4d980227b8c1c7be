"""Where a training's figures and pictures go: four methods, one file each time.

`metrics.jsonl` is always written and holds nothing but figures that a resumed run repeats bit for bit; the others are
told the same. All work without a network.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from rheos.core.errors import CheckpointError, OptionError, missing_extra
from rheos.train.checkpoint import writing

__all__ = ["JSONL", "Tensorboard", "Tracker", "Trackio", "Wandb", "read_lines", "trackers"]


@runtime_checkable
class Tracker(Protocol):
    """What a tracker owes; its class is called with the run directory."""

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """A run begins, or goes on at `step`: what was told of later steps is void."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Figures after `step` optimiser steps; None stands for one that is not finite."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG file was written."""

    def close(self) -> None:
        """The run ends, or stops for now."""


@final
class JSONL:
    """`metrics.jsonl`: one line a `log`, `{"step": 20, "loss": ...}`.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Cut the file after `step`, and go on writing there."""
        with writing(self.path):
            if self.path.exists():
                kept = [line for line in read_lines(self.path) if line["step"] <= step]
                temporary = self.path.with_name(f".{self.path.name}.tmp")
                temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
                temporary.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append a line, and hand it to the system at once."""
        with writing(self.path):
            self._file.write(f"{json.dumps({'step': step, **values}, allow_nan=False)}\n")
            self._file.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        """Pictures lie in samples/ already."""

    def close(self) -> None:
        """Close the file; a full disk has been complained of before."""
        with suppress(OSError):
            self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut off is left out.

    Raises:
        CheckpointError: If another line is no figure of a run.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    read = []
    for k, line in enumerate(lines[:-1]):  # after the last newline there is nothing, or half a line
        try:
            value = json.loads(line)
            value["step"] + 0
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(
                f"Line {k + 1} of {path} is no line of figures. Delete that line, then resume.", path=path
            ) from None
        read.append(value)
    return read


@final
class Tensorboard:
    """Event files in `tensorboard/`; `tensorboard --logdir RUN` shows them.

    Args:
        folder: The run directory.

    Raises:
        MissingExtraError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("The tracker tensorboard", "tensorboard", "tensorboard") from error
        self._make, self._folder = SummaryWriter, folder / "tensorboard"

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open a file; the viewer drops what earlier ones say of later steps."""
        self._writer = self._make(str(self._folder), purge_step=step + 1 if step else None)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```", step)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Scalars."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """An image."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


@final
class Trackio:
    """A trackio project "rheos" on this machine; the run has the directory's name.

    Args:
        folder: The run directory.

    Raises:
        MissingExtraError: If trackio is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import trackio
        except ImportError as error:
            raise missing_extra("The tracker trackio", "trackio", "trackio") from error
        self._trackio, self._folder = trackio, folder

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open the run, or go on with it."""
        self._trackio.init(
            project="rheos", name=self._folder.name, config=dict(config), resume="allow" if step else "never"
        )

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Figures."""
        self._trackio.log({k: v for k, v in values.items() if v is not None}, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """An image."""
        self._trackio.log({name: self._trackio.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._trackio.finish()


@final
class Wandb:
    """A wandb run kept in `wandb/`, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it later.

    Args:
        folder: The run directory.

    Raises:
        MissingExtraError: If wandb is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("The tracker wandb", "wandb", "wandb") from error
        self._wandb, self._folder = wandb, folder

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open the run, or go on with it."""
        import os

        self._run = self._wandb.init(
            project="rheos", name=self._folder.name, dir=str(self._folder), config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"), resume="allow",
            id=f"{self._folder.name}-{config['data']['fingerprint'][:8]}",
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Figures."""
        self._run.log({k: v for k, v in values.items() if v is not None}, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """An image."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """Trackers by name, `metrics.jsonl` first.

    Args:
        names: Of this module in lower case, or "module:Class" for your own.
        folder: The run directory.

    Raises:
        MissingExtraError: If a package is not installed.
        OptionError: If your own class cannot be found, or has not the methods of `Tracker`.
    """
    known: dict[str, Any] = {"tensorboard": Tensorboard, "trackio": Trackio, "wandb": Wandb}
    chosen: list[Tracker] = [JSONL(folder)]
    more = [name for name in dict.fromkeys(names) if name != "jsonl"]
    return chosen + [(known[name] if name in known else _own(name))(folder) for name in more]


def _own(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(f'The tracker {name!r} cannot be imported: {error}. Write it as "module:Class".') from error
    missing = [method for method in ("start", "log", "picture", "close") if not hasattr(found, method)]
    if missing:
        raise OptionError(f"The tracker {name!r} lacks {', '.join(missing)}; see rheos.train.trackers.Tracker.")
    return found
