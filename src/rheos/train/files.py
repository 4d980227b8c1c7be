"""The run directory as seen from any process: process 0 alone touches it, and errors reach everybody."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from rheos.core import config as plain
from rheos.core.errors import OptionError, RheosError, RunError
from rheos.core.objectives import Objective
from rheos.data.about import Coded
from rheos.data.codecs import LatentCodec
from rheos.train.card import card
from rheos.train.checkpoint import (
    Checkpoint,
    Store,
    read_config,
    read_json,
    read_tensors,
    write_json,
    write_text,
    writing,
)
from rheos.train.dist import Team
from rheos.train.options import MAY_CHANGE, Options
from rheos.train.trackers import Tracker, trackers

__all__ = ["CODEC", "Files"]

CODEC = "codec"
"""The folder of a run that holds the autoencoder of its latents."""


@final
class Files:
    """A run directory in use; `Files.opened` gives it back in the end.

    Args:
        team: The processes; all of them call every method.
        path: The directory.
        resume: Whether a run that is there may be continued.
        options: Trackers, and how many checkpoints are kept.

    Attributes:
        began: Whether a run is there.
    """

    def __init__(self, team: Team, path: Path, resume: bool, options: Options) -> None:
        self.team, self.path, self.options = team, path, options
        self._trackers: list[Tracker] = []
        self._told: list[Tracker] = []
        self._store: Store | None = None
        self.began = team.together(lambda: self._open(resume))

    @classmethod
    @contextmanager
    def opened(cls, team: Team, path: Path | None, resume: bool, options: Options) -> "Iterator[Files | None]":
        """The directory inside a with-block; None for none."""
        if path is None:
            yield None
            return
        files = cls(team, path, resume, options)
        try:
            yield files
        finally:
            files._close()

    def _open(self, resume: bool) -> bool:
        self._trackers = trackers(self.options.trackers, self.path)
        self._store = Store(self.path, resume, self.options.keep)
        return self._store.began

    def _close(self) -> None:
        for tracker in self._told:
            tracker.close()
        if self._store is not None:
            self._store.close()

    def _stored(self, work: Callable[[Store], Any]) -> Any:
        return self.team.together(lambda: work(self._store) if self._store is not None else None)

    def begin(self, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """A new run: its first checkpoint, its configuration."""
        self._stored(lambda store: store.begin(config, checkpoint))

    def save(self, checkpoint: Checkpoint) -> None:
        """A checkpoint; the older ones are pruned."""
        self._stored(lambda store: store.save(checkpoint))

    def newest(self) -> tuple[Checkpoint, Path]:
        """The newest checkpoint, and its folder; read by every process.

        Raises:
            RunError: If there is none.
            CheckpointError: If a file is damaged.
        """
        folder = self._stored(lambda store: store.newest())
        if folder is None:
            raise RunError(
                f"{self.path} holds a run without checkpoints, so it cannot go on. Choose another directory."
            )
        state = read_json(folder / "state.json")
        names = [n for n in ("model", "ema", "optimiser") if n != "ema" or self.options.ema]
        tensors = {name: read_tensors(folder / f"{name}.safetensors") for name in names}
        return Checkpoint(int(state["step"]), tensors, state), folder

    def publish(self, folder: Path) -> None:
        """Put a checkpoint's weights where people look for them: a kill may have come between."""
        self._stored(lambda store: store.publish(folder))

    def codec(self, coded: Coded) -> None:
        """Put what decodes samples beside the weights, so that the run can be moved; once."""
        codec: LatentCodec | None = getattr(coded, "codec", None)
        if codec is not None:
            self.team.together(lambda: None if (self.path / CODEC).exists() else codec.save(self.path / CODEC))

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Tell the trackers that the run goes on at a step."""
        self.team.together(lambda: self._start(config, step))

    def _start(self, config: Mapping[str, Any], step: int) -> None:
        for tracker in self._trackers:
            tracker.start(config, step)
            self._told.append(tracker)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Figures, to every tracker."""
        self.team.together(lambda: self._log(step, values))

    def _log(self, step: int, values: Mapping[str, float | None]) -> None:
        for tracker in self._told:
            tracker.log(step, values)

    def picture(self, step: int, png: Callable[[], bytes]) -> None:
        """A picture, into samples/ and to every tracker."""
        self.team.together(lambda: self._picture(step, png()))

    def _picture(self, step: int, png: bytes) -> None:
        path = self.path / "samples" / f"step_{step:06d}.png"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(png)
            temporary.replace(path)
        for tracker in self._told:
            tracker.picture(step, "samples", path)

    def describe(self, config: Mapping[str, Any], step: int, lines: list[dict[str, Any]]) -> None:
        """Write the run's README."""
        self.team.together(lambda: write_text(self.path / "README.md", card(config, step, lines)))

    def meet(self, config: dict[str, Any], objective: Objective) -> tuple[dict[str, Any], Objective]:
        """The configuration of the run that is there, and its objective, if they are what is asked for.

        What was measured on the data is taken from the file, so that it stays what it was to the last bit.

        Raises:
            RunError: With the values that differ.
        """
        old = self.team.together(lambda: read_config(self.path))
        differ = _differences(old, config)
        if config["steps"] < old["steps"]:
            differ.append(f"steps: {old['steps']} -> {config['steps']}")
        if differ:
            raise RunError(
                f"{self.path} holds a run of another configuration: {'; '.join(differ)}. "
                "Ask for the same, or choose another directory.",
                differ=differ,
            )
        new = {**config, "calibrated": old["calibrated"], "objective": old["objective"]}
        if old["calibrated"] != config["calibrated"]:
            objective = self._as_before(old["calibrated"], objective)
        if new != old:
            self.team.together(lambda: write_json(self.path / "config.json", new))
        return new, objective

    def _as_before(self, stored: Any, objective: Objective) -> Objective:
        try:
            return plain.load(stored, name="objective")  # type: ignore[no-any-return]
        except OptionError as error:
            warnings.warn(
                f"What was measured on the data before the first step of {self.path} is measured anew: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return objective


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a resumed run may not change and does, as "place: old -> new"."""
    pairs: dict[str, tuple[object, object]] = {}
    for part in ("field", "objective", "options"):
        before, now = _flat(_completed(old[part]), part), _flat(new[part], part)
        pairs |= {place: (before.get(place), now.get(place)) for place in before.keys() | now.keys()}
    for place in ("fingerprint", "spec.flip", "spec.conditions"):
        pairs[f"data.{place}"] = (_at(old["data"], place), _at(new["data"], place))
    free = {f"options.{name}" for name in MAY_CHANGE}
    differ = {p: ab for p, ab in sorted(pairs.items()) if ab[0] != ab[1] and p.split("[")[0] not in free}
    other = [p.removesuffix("kind") for p in differ if p.endswith(".kind")]  # its options differ of course
    return [
        f"{p}: {a} -> {b}"
        for p, (a, b) in differ.items()
        if p.endswith(".kind") or not any(p.startswith(whole) for whole in other)
    ]


def _completed(value: Any) -> Any:
    """A stored part with the defaults of options that it is too old to know."""
    try:
        return plain.dump(plain.load(value))
    except RheosError:
        return value  # it holds parts of the user's own


def _flat(value: Any, place: str) -> dict[str, object]:
    if isinstance(value, Mapping):
        return {p: v for k, inner in value.items() for p, v in _flat(inner, f"{place}.{k}").items()}
    if isinstance(value, list):
        return {p: v for k, inner in enumerate(value) for p, v in _flat(inner, f"{place}[{k}]").items()}
    return {place: value}


def _at(value: Mapping[str, Any], place: str) -> object:
    for part in place.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None  # type: ignore[assignment]
    return value
