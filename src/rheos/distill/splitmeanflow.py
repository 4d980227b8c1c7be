r"""SplitMeanFlow: distil a field to a flow map by splitting its intervals, and generate in one step or two.

The objective with all of its kinds, MeanFlow's among them, is `FlowMapLoss`; here a field becomes a student with a
second time, and is trained. To learn a flow map from scratch, give `train.fit` a `FlowMapField` and a `FlowMapLoss`.

Reference: SplitMeanFlow, Guo et al. (2025), https://arxiv.org/abs/2507.16884, algorithm 1.
"""

import copy
from dataclasses import replace
from pathlib import Path

from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.flowmap import FlowMapField
from rheos.data.dataset import Data
from rheos.distill.flowmaps import FlowMapLoss
from rheos.distill.inherited import inheriting
from rheos.distill.teacher import Teacher, field_of
from rheos.nets.two_times import TwoTimeAdapter
from rheos.train import Options, Run, fit

__all__ = ["FlowMapLoss", "splitmeanflow", "student"]


def student(teacher: Field, baked: float = 1.0) -> FlowMapField:
    """A flow map that begins as a field: its network with a second time that is not heard yet, ready to train.

    Args:
        teacher: The field; it is copied.
        baked: Scale of the guidance that training will put in.

    Raises:
        OptionError: For a field around another one, or a network whose time embedding is not found.

    Example:
        >>> import torch
        >>> from rheos.nets import MLP
        >>> field = Field(MLP(2, time_features=8))
        >>> x = torch.randn(3, 2)
        >>> torch.equal(student(field).average(x, 0.2, 0.9), field(x, 0.2))
        True
    """
    if isinstance(teacher, FlowMapField):
        made = copy.deepcopy(teacher)
        made.baked = baked
    elif not teacher.bare:
        raise OptionError(
            f"A {type(teacher).__name__} is a field of its own kind. Distil the field that it is made of."
        )
    else:
        net = copy.deepcopy(teacher.net)
        made = FlowMapField(TwoTimeAdapter(net), teacher.path, teacher.predicts, baked=baked, **teacher.about)
    return made.train().requires_grad_(True)


def splitmeanflow(
    field: Field | Run,
    data: Data,
    *,
    steps: int,
    objective: FlowMapLoss | None = None,
    guidance: float = 1.0,
    out: str | Path | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Distil a field to a flow map, from its own weights.

    Args:
        field: The teacher, a field or a run. A `FlowMapField` trains on from its own weights, without a teacher.
        data: What the teacher learned from.
        steps: Optimiser steps.
        objective: A `FlowMapLoss`; "split" unless given. Without a teacher of its own it gets this one.
        guidance: Scale of the teacher's guidance, which becomes part of the student.
        out: Run directory, continued if it is there.
        options: Of `train.fit`; a learning rate of 3e-4 unless given.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run; `sample.draw(run.field, steps=1)` jumps.

    Raises:
        OptionError: For guidance without a teacher, or beside an objective with its own.
        RheosError: As `train.fit`.

    Example:
        >>> from rheos import data, nets
        >>> field = Field(nets.MLP(2, hidden=8, depth=1, time_features=8))
        >>> run = splitmeanflow(field, data.load("moons", limit=64), steps=2, options=Options(batch=16))
        >>> type(run.field).__name__
        'FlowMapField'
    """
    teacher, loss = field_of(field), objective or FlowMapLoss()
    scratch = isinstance(teacher, FlowMapField)
    if guidance != 1.0 and (scratch or loss.teacher is not None):
        raise OptionError("guidance belongs to the teacher; here, give FlowMapLoss(guidance=(w, k)) or Teacher(...).")
    if loss.teacher is None and not scratch:
        loss = replace(loss, teacher=Teacher(teacher, guidance))
    made = student(teacher, loss.scale)
    return fit(
        made, loss, inheriting(data, field), steps=steps, out=out, options=options or Options(lr=3e-4),
        resume=out is not None, progress=progress,
    )  # fmt: skip
