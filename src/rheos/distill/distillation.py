r"""Distillation: regress a student on where a flow leads, from the noise in one jump, or in K.

$E\,D\bigl(x_1,\; x_t + (1 - t)\,v(x_t, t)\bigr)$ over pairs (noise, sample) of a flow, $x_t$ on the line between them,
and t = 0 alone, or the K times j/K of a student with K Euler steps. It is flow matching on given pairs with a law of
times that sits on points; the premetric D is any one.

Reference: Flow Straight and Fast, Liu et al. (2023), section 2.2; InstaFlow, Liu et al. (2024), eq. 6,
https://arxiv.org/abs/2309.06380
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from rheos.core.base import Context, Coupling, Premetric, Source, TimeDistribution
from rheos.core.couplings import GivenPairs
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, TimeError
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.paths import Kind
from rheos.core.premetrics import premetric
from rheos.core.sources import FromCondition
from rheos.core.state import State
from rheos.core.times import PiecewiseTime, times
from rheos.data.dataset import Data
from rheos.distill.chords import ChordMatching
from rheos.distill.inherited import field_of, inheriting
from rheos.distill.kit import Known, guidance_of, known, start_of, student_of
from rheos.distill.segment_store import SegmentStore
from rheos.distill.store import PairStore
from rheos.metrics.perceptual import perceptual, usual_features
from rheos.train import Options, Run, fit

__all__ = [
    "AtTimes",
    "Decoded",
    "Distillation",
    "Schedule",
    "begun",
    "between",
    "distil",
    "distillation",
    "guidance_of",
    "seen",
    "t_schedule",
    "usual_options",
]

Schedule = str | int | tuple[float, float] | TimeDistribution
"""See `t_schedule`."""


@final
@dataclass(frozen=True)
class AtTimes(TimeDistribution):
    """Each of some times with the same chance.

    Args:
        points: Times in [0, 1], increasing.

    Raises:
        TimeError: For no times, or times that do not increase inside [0, 1].

    Example:
        >>> AtTimes((0.0, 0.5)).sample(4, Draws(torch.arange(4)))
        tensor([0.0000, 0.5000, 0.0000, 0.0000], dtype=torch.float64)
    """

    points: tuple[float, ...]

    def __post_init__(self) -> None:
        inside = all(0 <= t <= 1 for t in self.points)
        if not self.points or not inside or any(a >= b for a, b in pairwise(self.points)):
            raise TimeError(f"points must be increasing times in [0, 1], got {self.points}.")

    def density(self, t: Tensor) -> Tensor:
        """There is none.

        Raises:
            TimeError: Always.
        """
        raise TimeError(f"A law on the points {self.points} has no density.")

    def sample(self, n: int, draws: Draws) -> Float64[Tensor, " n"]:
        """One of the points a row."""
        if n != len(draws):
            raise OptionError(f"{n} times asked of draws of {len(draws)} rows; there is one time a row.")
        points = torch.tensor(self.points, dtype=torch.float64, device=draws.seed.device)
        if len(self.points) == 1:
            return points.expand(n)
        return points[(draws.uniform("time") * len(self.points)).long().clamp_(max=len(self.points) - 1)]


def t_schedule(spec: Schedule) -> TimeDistribution:
    """The law of a distillation's times.

    Args:
        spec: A whole number K: the times 0, 1/K, ..., (K - 1)/K of a student with K Euler steps, so 1 is t = 0 alone;
            "ends": 0 and 1; a range (low, high): uniform on it; a name of `core.times.times`; or a law.

    Raises:
        OptionError: For K below 1.
        TimeError: For a range that is no part of [0, 1].

    Example:
        >>> t_schedule(4).points
        (0.0, 0.25, 0.5, 0.75)
    """
    if isinstance(spec, bool) or (isinstance(spec, int) and spec < 1):
        raise OptionError(f"A student takes a whole number of steps, at least 1, got {spec!r}.")
    if isinstance(spec, int):
        return AtTimes(tuple(j / spec for j in range(spec)))
    if isinstance(spec, tuple):
        return between(*spec)
    return AtTimes((0.0, 1.0)) if spec == "ends" else times(spec)


def between(low: float, high: float) -> PiecewiseTime:
    """Uniform on (low, high).

    Raises:
        TimeError: Unless 0 <= low < high <= 1.

    Example:
        >>> between(0.2, 0.8).density(torch.tensor([0.1, 0.5])).round(decimals=4)
        tensor([0.0000, 1.6667], dtype=torch.float64)
    """
    if not (0 <= low < high <= 1 and math.isfinite(low + high)):
        raise TimeError(f"A range of times lies in [0, 1] and increases, got ({low}, {high}).")
    edges = (0.0, low, high, 1.0)
    parts = [(a, b, float(a == low and b == high)) for a, b in pairwise(edges) if a < b]
    return PiecewiseTime((*(a for a, _, _ in parts), 1.0), tuple(w for _, _, w in parts))


@final
@dataclass(frozen=True, eq=False)
class Decoded(Premetric):
    """A premetric of decoded samples: of pictures, where the flow lives among latents.

    Args:
        metric: The premetric.
        decode: From samples to pictures, differentiable; rows first.
    """

    metric: Premetric
    decode: Callable[[Tensor], Tensor]
    on = "data"

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) losses; no gradient flows into the target.

        Raises:
            OptionError: For a state with parts.
        """
        if isinstance(prediction, dict) or isinstance(target, dict):
            raise OptionError("A decoder takes one tensor, this state has parts.")
        with torch.no_grad():
            want = self.decode(target)
        have = self.decode(prediction)
        return self.metric(have, want, context._replace(data=have, target=want))


def seen(
    loss: str | Premetric,
    shape: tuple[int, ...] | None,
    value_range: tuple[float, float] | None,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> Premetric | None:
    """The premetric of a stage that looks at pictures.

    Args:
        loss: "auto": LPIPS where it is installed and fits, else features of one of our nets, and none for what is no
            picture in [-1, 1]; "lpips", "digits", "mnist5k" or "emoji"; a name of `core.premetrics`; or a premetric.
        shape: Of a sample.
        value_range: Of samples.
        decode: Of latents to pictures in [-1, 1], which are then looked at; "auto" then means LPIPS.

    Raises:
        ShapeError: For pictures that LPIPS was not made for.
        UnknownOptionError: For another name.
    """
    if isinstance(loss, Premetric):
        found: Premetric | None = loss
    elif loss == "auto" and decode is None:
        picture = shape is not None and len(shape) == 3 and shape[0] in (1, 3) and value_range == (-1.0, 1.0)
        found = perceptual(usual_features(shape)) if picture and shape is not None else None
    elif loss in ("auto", "lpips", "digits", "mnist5k", "emoji"):
        found = perceptual("lpips" if loss == "auto" else loss)
    else:
        found = premetric(loss)
    return Decoded(found, decode) if found is not None and decode is not None else found


@final
@dataclass(frozen=True)
class Distillation(FlowMatching):
    """Flow matching on given pairs at a student's own times; its field then knows these and no others.

    Args:
        coupling: `GivenPairs`, or what moves pairs together (`Together`).
        times: A law, such as `AtTimes`.
        premetric: A `Premetric` or its name.
        weight: A `Weight` or its name.
        source: What reads the pairs' noise.
        loss_on: The kind that is compared.
        dropout: Probability that a row's conditions are nulled.
    """

    coupling: Coupling | str = field(default_factory=GivenPairs)
    times: TimeDistribution | str = field(default_factory=lambda: AtTimes((0.0,)))
    source: Source | str = field(default_factory=lambda: FromCondition("x0", noise=True))
    loss_on: Kind | None = "velocity"
    dropout: float = 0.0

    @property
    def grid(self) -> tuple[float, ...] | None:
        """The times between which the student steps; None where it learns at all times of a range."""
        if not isinstance(self.times, AtTimes):
            return None
        points = self.times.points
        return points if points[-1] == 1 else (*points, 1.0)


def distillation(pairs: Known, schedule: Schedule = 1, loss: str | Premetric = "mse") -> Distillation:
    """The objective on pairs.

    Args:
        pairs: Of `rheos.distill.kit.known`.
        schedule: Of times, see `t_schedule`.
        loss: A premetric or its name.
    """
    return Distillation(source=pairs[1], times=t_schedule(schedule), premetric=premetric(loss))


def usual_options() -> Options:
    """Adam at 5e-4, without warm-up: a student begins with trained weights."""
    return Options(optimiser="adam", betas=(0.9, 0.999), lr=5e-4, warmup=0)


def distil(
    student: Field | Run,
    pairs: PairStore | Data | SegmentStore,
    *,
    steps: int,
    out: str | Path | None = None,
    schedule: Schedule = 1,
    loss: str | Premetric = "mse",
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a copy of a field to jump where pairs lead.

    Args:
        student: Where to begin, on the linear path: the straightened flow, or a smaller network. A run hands its codec
            on where the pairs know none.
        pairs: Drawn from the flow that is distilled; or its segments (`generate_segments`) between the times of a
            student with as many Euler steps, whose chords are then the targets.
        steps: Optimiser steps.
        out: Run directory, continued if it is there.
        schedule: The student's number of steps K, or another law of times, see `t_schedule`. Segments bring their own,
            and K must be their number or 1.
        loss: A premetric or its name.
        options: Of `train.fit`; Adam at 5e-4 unless given.
        progress: Whether a bar is drawn; None: on terminals.

    Returns:
        The run; `draw(run.field, n)` takes the student's own steps, without guidance, which is inside.

    Raises:
        OptionError: For segments with another schedule than their own.
        RheosError: As `known` and `train.fit`.
    """
    objective: Distillation | ChordMatching
    if isinstance(pairs, SegmentStore):
        if schedule not in (1, pairs.segments):
            raise OptionError(f"These are {pairs.segments} segments a path, got schedule={schedule!r}. Leave it out.")
        data, objective = pairs.data(), ChordMatching.of(pairs, premetric=loss)
    else:
        have = known(pairs, field_of(student))
        data, objective = have[0], distillation(have, schedule, loss)
    return fit(
        begun(field_of(student), guidance_of(pairs)), objective, inheriting(data, student), steps=steps, out=out,
        options=options or usual_options(), resume=out is not None, progress=progress,
    )  # fmt: skip


def begun(student: Field, guidance: float) -> Field:
    """A trainable copy of a student that knows the guidance which is baked into it.

    Raises:
        OptionError: For a student that is not on the linear path.
    """
    copied = start_of(student_of(student))
    copied.gaussian, copied.baked = False, guidance
    return copied
