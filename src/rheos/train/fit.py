"""`fit`: train a field, and be able to stop and go on at any step."""

from pathlib import Path
from typing import Any

import torch

from rheos import __version__
from rheos.core import config as plain
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.data.dataset import Data
from rheos.train.checkpoint import FORMAT
from rheos.train.checks import calibrated, check, introduce, rehearse
from rheos.train.dist import Team
from rheos.train.files import Files
from rheos.train.options import Options
from rheos.train.run import Run
from rheos.train.session import Session

__all__ = ["fit"]


def fit(
    field: Field,
    objective: Objective,
    data: Data,
    *,
    steps: int,
    out: str | Path | None = None,
    options: Options | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run:
    """Train a field in place.

    One step is one optimiser step on one global batch, whatever the number of processes or accumulated parts. What a
    step draws is a function of the seed and its number, so a run that was killed and resumed ends bit by bit like one
    that was not (on one machine, on CPUs).

    Args:
        field: Its weights are where training begins; shape and value range of the data are noted on it.
        objective: Such as `FlowMatching`.
        data: `rheos.data.load` reads it.
        steps: Optimiser steps in all; a resumed run may ask for more than before.
        out: The run directory, or None to keep nothing but what is returned.
        options: How: batch, learning rate, precision, average, checkpoints, pictures.
        resume: Go on with the run in `out`, or begin one if none is there.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run; its field has the averaged weights, the given one the raw weights.

    Raises:
        OptionError: For options out of range or that this machine lacks.
        ConditionError: If data and network disagree on conditions or classes.
        ShapeError: If the network does not take the data's shape.
        DataError: If the field lives in another range of values.
        RunError: If `out` holds a run and `resume` is false, a resumed run was another one, or files cannot be written.
        CheckpointError: If a file to resume from is damaged.
        NonFiniteError: If loss or weights become NaN; the last good checkpoint stays.
        KeyboardInterrupt: After Ctrl-C, when a checkpoint has been written; SIGTERM likewise exits with status 143.

    Example:
        >>> from rheos import core, data, nets
        >>> field = core.Field(nets.MLP(2, hidden=8, depth=1))
        >>> run = fit(field, core.FlowMatching(), data.load("moons", limit=100), steps=2, options=Options(batch=16))
        >>> run
        Run(in memory, step 2 of 2, data 'moons')
    """
    options = options or Options()
    check(field, objective, data, steps, options)
    path = Path(out) if out is not None else None
    if path is None and set(options.trackers) - {"jsonl"}:
        raise OptionError(f"The trackers {', '.join(options.trackers)} need a run directory: fit(..., out=...).")
    mode = field.training
    first = next(field.parameters()).device
    team = Team.assemble(first)
    with torch.random.fork_rng([first] if first.type == "cuda" else []):
        field.to(team.device).train()
        asked, objective = objective, calibrated(objective, data, options, team.device)
        rehearse(field, objective, data, options)
        introduce(field, objective, data)
        config = _describe(field, asked, objective, data, options) | {"steps": steps, "processes": team.size}
        with Files.opened(team, path, resume, options) as files:
            if files is not None and files.began:
                config, objective = files.meet(config, objective)
            try:
                return Session(field, objective, data, options, config, team, files).train(progress)
            finally:
                field.train(mode)


def _describe(field: Field, asked: Objective, objective: Objective, data: Data, options: Options) -> dict[str, Any]:
    """What config.json says, but for the number of steps."""
    first, second = plain.dump(asked, "objective"), plain.dump(objective, "objective")
    about = {
        "name": data.name,
        "rows": len(data),
        "shape": list(data.shape),
        "class_names": list(data.class_names),
        "delivers": plain.dump(data.delivers),
        "fingerprint": data.fingerprint,
        "spec": data.spec,
    }
    if data.coded is not None:
        about["coded"] = data.coded.fingerprint
    if data.about.real is not None:
        about["real"] = dict(data.about.real)
    way = getattr(objective, "sampling", None)
    return {
        "format": FORMAT,
        "rheos": __version__,
        "torch": torch.__version__,
        "device": next(field.parameters()).device.type,
        "field": plain.dump(field, "field"),
        "objective": first,
        "calibrated": None if second == first else second,
        "options": plain.dump(options, "options"),
        "data": about,
        "parameters": sum(p.numel() for p in field.parameters()),
        **({} if way is None else {"sampling": plain.dump(way, "sampling")}),
    }
