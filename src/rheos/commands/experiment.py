"""The complete description of a training, as plain values: what `rheos train --dry-run` prints and `--config` reads.

`{"data": arguments of rheos.data.load, "field": ..., "objective": ..., "options": ..., "steps": N}`. A run's
config.json is read as well. What is left out is filled in: a network for the data's shape, the library's defaults.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import torch

from rheos.core import config as plain
from rheos.core.errors import DataError, OptionError, RheosError, RunError, check_choice
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching, Objective
from rheos.data import Data, load
from rheos.data.recipe import Recipe
from rheos.train import Options
from rheos.train.suggestions import network_for

__all__ = ["Experiment", "Plain", "experiment", "read", "with_changes"]

Plain = dict[str, Any]
KEYS = ("data", "field", "objective", "options", "steps")
FROM_A_RUN = ("format", "rheos", "torch", "device", "calibrated", "parameters", "processes", "step")


@final
@dataclass(frozen=True)
class Experiment:
    """A training, ready to run.

    Args:
        config: Everything as plain values.
        field: The flow, with fresh weights.
        objective: What is minimised.
        data: What is learned.
        options: How.
        steps: Optimiser steps.
    """

    config: Plain
    field: Field
    objective: Objective
    data: Data
    options: Options
    steps: int

    @property
    def flows(self) -> bool:
        """Whether a flow is trained; else something that shows pictures of its own, such as an autoencoder."""
        return not hasattr(self.objective, "pictures")


def read(path: Path) -> Plain:
    """A description from a JSON file, or from a run's config.json.

    Raises:
        RunError: If there is no such file.
        OptionError: If it is no description, or has unknown entries.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"There is no file {path}.", path=path) from None
    except (ValueError, OSError) as error:
        raise OptionError(f"{path} cannot be read as JSON: {error}.", path=path) from error
    if not isinstance(found, dict):
        raise OptionError(f"{path} must hold an object with entries {', '.join(KEYS)}.", path=path)
    if isinstance(found.get("data"), dict) and "spec" in found["data"]:
        found["data"] = found["data"]["spec"]
    for key in found:
        if key not in FROM_A_RUN:
            check_choice(f"{path}: the entry", key, KEYS)
    return {key: found[key] for key in KEYS if key in found}


def experiment(given: Plain, changes: Sequence[str] = ()) -> Experiment:
    """Fill in what is left out, apply changes, and build everything.

    Args:
        given: A description, possibly partial; data at least.
        changes: "a.b=c" each.

    Raises:
        RheosError: For whatever does not fit, naming it.
    """
    first = [c for c in changes if c.startswith("data.")]
    later = [c for c in changes if not c.startswith("data.")]
    about = with_changes({"data": dict(given.get("data") or {})}, first)["data"]
    for key in about:
        check_choice("data: the option", key, [f.name for f in fields(Recipe)])
    if about.get("source") is None:
        raise DataError(
            "There is no data to learn: name a folder of pictures, a .npz file or a built-in set with --data."
        )
    data = load(**about)
    default: Plain = {
        "field": None,
        "objective": plain.dump(FlowMatching()),
        "options": plain.dump(Options()),
        "steps": 2000,
    }
    config = {"data": about} | {key: given.get(key, default[key]) for key in KEYS[1:]}
    seed = _seed(config["options"], later)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # the weights at the start are a function of the seed
        config = with_changes(config, [c for c in later if not c.startswith("field")])
        objective = plain.load(_kind(config["objective"]), name="objective")
        if config["field"] is None:
            own = getattr(objective, "suggest", None)  # an objective may know what it trains
            config["field"] = plain.dump(Field(network_for(data)) if own is None else own(data))
        config = with_changes(config, [c for c in later if c.startswith("field")])
        torch.manual_seed(seed)
        field = plain.load(config["field"], expect=Field, name="field")
    options: Options = plain.load(config["options"], expect=Options, name="options")
    own = [name for name in options.trackers if ":" in name]
    if own:  # a file must not be able to import code
        raise OptionError(
            f"The tracker {own[0]!r} is a class of your own, which a description cannot name. Use Python."
        )
    steps = config["steps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptionError(f"steps must be a whole number of at least 1, got {steps!r}.")
    complete = {
        "data": data.spec,
        "field": plain.dump(field),
        "objective": plain.dump(objective),
        "options": plain.dump(options),
        "steps": steps,
    }
    return Experiment(complete, field, objective, data, options, steps)


def _seed(options: Plain, changes: Sequence[str]) -> int:
    changed = with_changes({"options": options}, [c for c in changes if c.startswith("options.seed=")])["options"]
    seed = changed.get("seed", 0)
    return seed if isinstance(seed, int) else 0  # a wrong type is refused where the options are read


def _kind(value: Any) -> Any:
    """A bare name as the description of a kind with its defaults."""
    return {"kind": value} if isinstance(value, str) else value


def with_changes(config: Plain, changes: Sequence[str]) -> Plain:
    """A description with some entries replaced; the given one is left alone.

    Args:
        config: Plain values.
        changes: "a.b=c": c is JSON where it can be read as such, else text. An unknown last name is refused where
            the entry is read, because only its kind knows its options.

    Raises:
        OptionError: For a change without "=", or a path that leads nowhere.

    Example:
        >>> with_changes({"options": {"lr": 0.1}}, ["options.lr=0.01", "options.optimiser=adam"])
        {'options': {'lr': 0.01, 'optimiser': 'adam'}}
    """
    changed = json.loads(json.dumps(config))
    for change in changes:
        path, sign, text = change.partition("=")
        if not sign or not path:
            raise OptionError(f"A change reads path=value, such as options.lr=0.002, got {change!r}.")
        *way, last = path.split(".")
        at = changed
        for k, step in enumerate(way):
            if isinstance(at.get(step), str):
                whole = _defaults(at).get(step)  # which knows short names
                at[step] = whole if isinstance(whole, dict) else {"kind": at[step]}
            if step not in at:
                at.update(_defaults(at) | at)
            if not isinstance(at.get(step), dict):
                where = ".".join(way[:k]) or "the description"
                known = ", ".join(name for name, value in at.items() if isinstance(value, dict)) or "nothing"
                raise OptionError(f"{change}: {where} has no part {step!r} with entries of its own; it has: {known}.")
            at = at[step]
        if not way:
            check_choice("the entry", last, KEYS)
        at[last] = _value(text)
    return changed  # type: ignore[no-any-return]


def _defaults(part: Plain) -> Plain:
    """All options of a part that has a kind, so that a change can reach into one that was not named."""
    if plain.kind_of(part) is None:
        return {}
    try:
        whole = plain.dump(plain.load(part))
    except RheosError:  # it is said where the description is read
        return {}
    return whole if isinstance(whole, dict) else {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
