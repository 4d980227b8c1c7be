r"""Reflow: train a flow again on its own pairs, and its paths straighten.

The pairs (noise, sample) of a flow are a coupling whose paths cross less than independent ones; flow matching on it
gives a field with the same samples along straighter trajectories, so that one Euler step goes a long way. Guidance
used to draw the pairs is baked into the new field, which then needs one network call a step.

Reference: Flow Straight and Fast, Liu et al. (2023), algorithm 1, https://arxiv.org/abs/2209.03003
"""

import copy
from pathlib import Path

from rheos.core.couplings import GivenPairs
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.premetrics import premetric
from rheos.core.sources import FromCondition
from rheos.core.times import times
from rheos.distill.pairs import PairStore
from rheos.train import Options, Run, fit

__all__ = ["reflow"]


def reflow(
    field: Field,
    pairs: PairStore,
    *,
    steps: int,
    out: str | Path | None = None,
    time: str = "uniform",
    loss: str = "mse",
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a copy of a field on its own pairs, from its own weights.

    Args:
        field: The teacher, and the start of the student.
        pairs: Drawn from it by `generate`.
        steps: Optimiser steps.
        out: Run directory.
        time: Name of the time distribution.
        loss: Name of the premetric.
        options: Of `train.fit`.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run of the straightened field.

    Raises:
        RheosError: As `train.fit`.
    """
    student = copy.deepcopy(field)
    student.requires_grad_(True)
    student.shift = 1.0
    objective = FlowMatching(
        coupling=GivenPairs(),
        source=FromCondition("x0"),
        times=times(time),
        premetric=premetric(loss),
        dropout=0.0,
    )
    return fit(student, objective, pairs.data(), steps=steps, out=out, options=options, resume=True, progress=progress)
