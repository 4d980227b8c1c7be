r"""Reflow: train a flow again on its own pairs, and its paths straighten.

The pairs (noise, sample) of a flow are a coupling whose paths cross less than independent ones; flow matching on it
gives a field with the same samples along straighter trajectories, so that one Euler step goes a long way. Guidance
used to draw the pairs is baked into the new field, which then needs one network call a step. With `dropout` the
conditions of some rows are nulled, so that the new field can be guided again, by a smaller scale.

Reference: Flow Straight and Fast, Liu et al. (2023), algorithm 1, https://arxiv.org/abs/2209.03003; with text,
InstaFlow, Liu et al. (2024), eq. 5, https://arxiv.org/abs/2309.06380
"""

from pathlib import Path

from rheos.core.base import Coupling, Premetric, TimeDistribution
from rheos.core.couplings import GivenPairs
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.premetrics import premetric
from rheos.core.times import times
from rheos.data.dataset import Data
from rheos.distill.inherited import field_of, inheriting
from rheos.distill.kit import guidance_of, known, made_by, same_teacher, start_of
from rheos.distill.store import PairStore
from rheos.train import Options, Run, fit

__all__ = ["reflow"]


def reflow(
    field: Field | Run,
    pairs: PairStore | Data,
    *,
    steps: int,
    out: str | Path | None = None,
    time: str | TimeDistribution = "uniform",
    loss: str | Premetric = "mse",
    dropout: float = 0.0,
    coupling: Coupling | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a copy of a field on pairs, from its own weights.

    Args:
        field: The start of the student: the teacher, or another network. Off the linear path its raw output is taken
            for a velocity (`Field.as_velocity`); `retimed` starts with the teacher's own samples instead. A run hands
            its codec on where the pairs know none.
        pairs: Drawn from the teacher by `generate`, or data that deliver "x0" (`given_pairs`).
        steps: Optimiser steps.
        out: Run directory, continued if it is there.
        time: A time distribution or its name.
        loss: A premetric or its name.
        dropout: Probability that a row's conditions are replaced by null; then the new field can be guided.
        coupling: How pairs are coupled, such as `AnnealedPairs`; as they are given unless given.
        options: Of `train.fit`.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run of the straightened field, which warns of guidance that comes on top of its pairs' own.

    Raises:
        DataError: For noise that is not N(0, 1), a NaN, or pairs that are said to be this field's and are not.
        ShapeError: For samples of another shape than the field's.
        RheosError: As `train.fit`.
    """
    data, source = known(pairs, field_of(field))
    if isinstance(pairs, PairStore) and made_by(pairs, field_of(field)):
        same_teacher(field_of(field), pairs)
    start, guidance = start_of(field_of(field)), guidance_of(pairs)
    if guidance != 1.0 and not dropout:  # with dropout the new field is meant to be guided, by less
        start.baked = guidance
    objective = FlowMatching(
        coupling=coupling or GivenPairs(),
        source=source,
        times=times(time),
        premetric=premetric(loss),
        dropout=dropout,
    )
    return fit(
        start, objective, inheriting(data, field), steps=steps, out=out, options=options,
        resume=out is not None, progress=progress,
    )  # fmt: skip
