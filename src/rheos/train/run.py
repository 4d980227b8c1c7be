"""A finished (or stopped) run, and reading one from its directory."""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import Tensor

from rheos.core import config as plain
from rheos.core.errors import CheckpointError, OptionError, RheosError, RunError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.train.card import card
from rheos.train.checkpoint import FORMAT, newest, read_config, read_json, read_tensors, restore, write_tensors, writing
from rheos.train.options import Options
from rheos.train.prompted import Prompted, prompted
from rheos.train.sampling import Sampling
from rheos.train.trackers import read_lines

if TYPE_CHECKING:
    from rheos.data.codecs import LatentCodec
    from rheos.data.dataset import Data

__all__ = ["Run", "load"]

Weights = Literal["ema", "raw"]


@final
class Run:
    """A trained field with everything that is known of its training.

    `train.fit` and `train.load` make one.

    Args:
        config: What was run, as in config.json.
        step: Completed optimiser steps.
        field: With the averaged weights if there is an average (or the raw ones if these were asked for), in
            evaluation mode.
        tensors: Weights by kind, "model" and, with an average, "ema"; the raw field is made of them when asked for.
        path: The run directory, or None for a run in memory.
        lines: Figures on the way, where there is no directory to read them from.
        codec: What decodes samples, where the field flows in latents; read from the directory unless given.

    Attributes:
        config: What was run, as in config.json.
        step: Completed optimiser steps.
        field: Ready for sampling.
        path: The run directory, or None.
        custom: Your own classes and objects by name, where the run was read with such.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        step: int,
        field: Field,
        tensors: Mapping[str, Mapping[str, Tensor]],
        path: Path | None = None,
        lines: list[dict[str, Any]] | None = None,
        codec: "LatentCodec | None" = None,
    ) -> None:
        self.config, self.step, self.field, self.path = dict(config), step, field, path
        self._tensors, self._lines, self._codec = tensors, lines or [], codec
        self.custom: Mapping[str, object] | None = None
        self._raw: Field | None = None
        self._same = False  # whether its data were seen to be

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        return f"Run({where}, step {self.step} of {self.config['steps']}, data {self.config['data']['name']!r})"

    @property
    def raw(self) -> Field:
        """The field with the weights that were trained, not averaged; made on first use."""
        if self._raw is None:
            self._raw = copy.deepcopy(self.field)
            restore(_module(self._raw), self._tensors["model"], Path("model.safetensors"))
        return self._raw

    @property
    def codec(self) -> "LatentCodec | None":
        """The autoencoder of the latents in which the field flows, read on first use; None where it flows in the data.

        Raises:
            DataError: If the run flows in latents, and its codec is gone.
        """
        if self._codec is None and self.path is not None and self.config["data"].get("coded"):
            from rheos.data.codecs import LatentCodec
            from rheos.train.files import CODEC

            self._codec = LatentCodec.read(self.path / CODEC, self.custom)
        return self._codec

    @property
    def prompted(self) -> Prompted | None:
        """What reads prompts and decodes samples inside a student of a pipeline; None for all other runs."""
        return prompted(self.field)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Lowest and highest value of what `decode` gives, where it has such."""
        decoder = self.codec or self.prompted
        return self.field.value_range if decoder is None else decoder.delivers

    def decode(self, x: Tensor) -> Tensor:
        """What samples of the field stand for: pictures of latents, or the samples themselves, without gradients."""
        decoder = self.codec or self.prompted
        if decoder is None:
            return x
        with torch.no_grad():
            return decoder.decode(x)

    def draw(self, n: int = 16, *, seed: int | Sequence[int] | Tensor = 0, **options: Any) -> Tensor:
        """Samples, as the data are: pictures where the flow is in latents or in pairs; see `train.draw_run`.

        Args:
            n: How many.
            seed: One integer for all, or one a row; a row's sample depends on its own seed alone.
            **options: steps, solver (those of `sampling` unless given), guidance, batch, temperature as in
                `train.draw_run`; all else are columns of the data, one value or one a row: label=3, mask=..., or
                caption="red apple" where the data are embedded.

        Raises:
            ConditionError: For columns that the flow does not know, or lacks.
            OptionError: For guidance of a flow that has no null branch.
        """
        from rheos.train.drawing import draw_run

        own = ("steps", "solver", "guidance", "batch", "temperature")
        told = {name: options.pop(name) for name in own if name in options}
        return draw_run(self, n, options, seed=seed, **told).x

    def check_guidance(self, scale: float | None) -> None:
        """Raise `OptionError` where a guided sample would ask for a null branch that was never trained."""
        if scale in (None, 1):
            return
        if (own := getattr(self.field.net, "check_guidance", None)) is not None:
            own(scale)
        objective = self.config["objective"] or {}
        if objective.get("dropout") == 0:
            raise OptionError(
                f"guidance {scale:g} needs a null branch, and this flow was trained with dropout=0, so it has none. "
                "Sample with guidance 1, or train with objective.dropout=0.1."
            )

    @property
    def options(self) -> Options:
        """How it was trained."""
        return plain.load(self.config["options"], expect=Options, name="options")  # type: ignore[no-any-return]

    @cached_property
    def sampling(self) -> Sampling:
        """The steps and the solver that it was made for, which samples take unless told otherwise.

        Raises:
            OptionError: If its description names unknown ones.
        """
        stored = self.config.get("sampling")
        if stored is None:
            return Sampling()
        return plain.load(stored, expect=Sampling, name="sampling")  # type: ignore[no-any-return]

    def sampled_by(self, way: Sampling) -> "Run":
        """The same run with other steps or another solver for its samples; `save` writes them down.

        Args:
            way: These.
        """
        other = copy.copy(self)
        other.config = {**self.config, "sampling": plain.dump(way, "sampling")}
        other.__dict__.pop("sampling", None)
        return other

    @property
    def objective(self) -> Objective:
        """What was minimised, with everything that was measured on the data.

        Raises:
            OptionError: If it holds parts of your own, which no file can hold: `rheos.core.config.load` takes them.
        """
        stored = self.config["calibrated"] or self.config["objective"]
        return plain.load(stored, name="objective")  # type: ignore[no-any-return]

    @cached_property
    def law(self) -> object:
        """What says where flows begin: the objective, or its source; None where they begin at noise.

        Only this part of the description is read, because the rest (a feature net, say) is of no use for sampling.

        Raises:
            OptionError: If it has parts of your own, which no file can hold.
        """
        stored = self.config["calibrated"] or self.config["objective"]
        if not isinstance(stored, Mapping):
            return None
        if isinstance(stored.get("source"), Mapping):
            return plain.load(stored["source"], custom=self.custom, name="objective.source")
        begins = hasattr(plain.kind_of(stored), "starts")
        return plain.load(dict(stored), custom=self.custom, name="objective") if begins else None

    def metrics(self) -> list[dict[str, Any]]:
        """The figures on the way, a mapping every `log_every` steps: step, loss (mean since the line before), ..."""
        file = self.path / "metrics.jsonl" if self.path is not None else None
        if file is None or not file.exists():
            return list(self._lines)
        return [line for line in read_lines(file) if line["step"] <= self.step]

    @property
    def origin(self) -> dict[str, Any]:
        """Arguments of `rheos.data.load` for the real data: of a student, those that its teacher learned from."""
        real = self.config["data"].get("real")
        return self.spec if real is None else dict(real)

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `rheos.data.load` for the data it was trained on; a codec that is gone is the run's own copy."""
        from rheos.train.files import CODEC

        spec = dict(self.config["data"]["spec"])
        if spec.get("codec") and not Path(spec["codec"]).exists() and self.path is not None:
            spec["codec"] = str(self.path / CODEC)
        return spec

    def data(self) -> "Data":
        """The data it was trained on, read again.

        Raises:
            RunError: If they are no longer the same.
            DataError: If they were made in memory, or cannot be read.
        """
        from rheos.data import load as load_data

        about = self.config["data"]
        data = load_data(**self.spec)
        if data.fingerprint != about["fingerprint"]:
            raise RunError(
                f"{about['name']} has changed since this run: its fingerprint is {data.fingerprint}, "
                f"it was {about['fingerprint']}."
            )
        self._same = True
        return data

    def real(self) -> "Data":
        """The real data behind the flow, as pictures where it flows in latents; of a student, its teacher's.

        Raises:
            RunError: If they are no longer the same, as far as that is known.
            DataError: If they were made in memory, or cannot be read.
        """
        from rheos.data import load as load_data

        about = self.config["data"]
        if about.get("real") is None and not about.get("coded"):
            return self.data()
        return load_data(**{name: value for name, value in self.origin.items() if name != "codec"})

    def held_out(self, *, coded: bool = True) -> "Data | None":
        """The rows that training held out; None if it held out none.

        Args:
            coded: As the flow knows them; False: pictures of a run that flows in latents.

        Raises:
            RunError: If the data are no longer the same, so that other rows would be held out.
            DataError: If they were made in memory, or cannot be read.
        """
        from rheos.data import load as load_data

        spec = self.origin
        split = spec.get("split")
        if split is None:
            return None
        if self.config["data"].get("real") is None and not self._same:
            self.data()  # says if they have changed
        if not coded:
            spec.pop("codec", None)
        part = ["train", 0.1, 0] if isinstance(split, str) else list(split)
        return load_data(**{**spec, "split": ["held_out", *part[1:]]})

    def save(self, path: str | Path) -> Path:
        """Write configuration, weights, figures and a card to a new directory, which `load` reads.

        What training needs to go on is left behind.

        Args:
            path: A directory that does not exist, or is empty.

        Raises:
            RunError: If there are files already, or it cannot be written.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists already. Choose another name.")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                temporary.mkdir()
                self._write(temporary)
                temporary.replace(path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return path

    def _write(self, folder: Path) -> None:
        head = {"format": FORMAT, "step": self.step}
        (folder / "config.json").write_text(json.dumps({**self.config, **head}, indent=1) + "\n", encoding="utf-8")
        for name, tensors in self._tensors.items():
            write_tensors(folder / f"{name}.safetensors", tensors)
        if self.codec is not None:
            from rheos.train.files import CODEC

            self.codec.save(folder / CODEC)
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in self.metrics()))
        (folder / "README.md").write_text(card(self.config, self.step, self.metrics()), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, weights: Weights | None, custom: Mapping[str, object] | None) -> "Run":
        """See `load`."""
        config = read_config(path)
        folder = newest(path)
        step = int(read_json(folder / "state.json")["step"]) if folder else int(config.get("step", 0))
        source = folder or path
        tensors = {"model": read_tensors(source / "model.safetensors")}
        if (source / "ema.safetensors").exists() or config["options"].get("ema"):
            tensors["ema"] = read_tensors(source / "ema.safetensors")
        if weights == "ema" and "ema" not in tensors:
            raise CheckpointError(f"{path} was trained with ema=0, so there is no average. Use weights='raw'.")
        try:
            field = plain.load(config["field"], custom=custom, expect=Field, name="field")
        except RheosError as error:
            raise type(error)(f"{path / 'config.json'}: {error}", **error.values) from error
        name = {"ema": "ema", "raw": "model"}.get(weights or "", "ema" if "ema" in tensors else "model")
        restore(_module(field), tensors[name], source / f"{name}.safetensors")
        field.eval().requires_grad_(False)
        run = cls(config, step, field, tensors, path)
        run.custom = custom
        return run


def _module(field: Field) -> Any:
    from rheos.train.engine import trained

    return trained(field)


def load(path: str | Path, *, weights: Weights | None = None, custom: Mapping[str, object] | None = None) -> Run:
    """Read a run, or what `Run.save` wrote. No pickle is read, and nothing that a file names is run.

    Args:
        path: The directory.
        weights: "ema" or "raw"; the average where there is one, unless given.
        custom: Your own classes and objects, by name "module:Class" as in config.json; see `rheos.core.config.load`.

    Raises:
        RunError: If there is no run.
        CheckpointError: If a file is truncated, foreign, of a newer format, or does not fit the network.
        OptionError: If the network is your own class and was not given.
    """
    if weights not in (None, "ema", "raw"):
        from rheos.core.errors import check_choice

        check_choice("weights", weights, ("ema", "raw"))
    return Run.read(Path(path), weights, custom)
