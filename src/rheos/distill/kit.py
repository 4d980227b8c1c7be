"""What the methods on pairs share: folder, teacher, and what can be known to be wrong before any training."""

import copy
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import DataError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.flowmap import TransportField
from rheos.core.paths import AffinePath
from rheos.core.query import Query
from rheos.core.schedules import Linear
from rheos.core.sources import FromCondition
from rheos.data.dataset import Data
from rheos.distill.chunks import shares, whole
from rheos.distill.inherited import names_of
from rheos.distill.pairs import Recipe, balanced, fingerprint, generate, level_of
from rheos.distill.segment_store import SegmentStore
from rheos.distill.store import PairStore
from rheos.sample.draw import conditions, draw_solution
from rheos.sample.guidance import CFG
from rheos.show import progress_bar
from rheos.train import Run

__all__ = [
    "Known", "check_original", "check_teacher", "drawn", "guidance_of", "known", "linear", "made_by", "same_teacher",
    "start_of", "student_of", "whose", "workplace",
]  # fmt: skip

LOOK = 2048
"""Rows that are looked at."""

Known = tuple[Data, Source]
"""Pairs as a data set, and what reads their noise."""


def linear(field: Field) -> bool:
    """Whether a field lives on the straight line from noise to data."""
    return isinstance(field.path, AffinePath) and field.path.law == Linear()


def start_of(field: Field) -> Field:
    """A trainable copy on the linear path: as it is if it lives there, else by its raw output (`Field.as_velocity`)."""
    if not linear(field):
        return field.as_velocity()
    copied = copy.deepcopy(field).requires_grad_(True)
    copied.shift, copied.times = 1.0, None
    return copied


def student_of(student: Field | nn.Module) -> Field:
    """A student as a field on the linear path; a network alone predicts the velocity.

    Raises:
        OptionError: For a field on another path.
    """
    field = student if isinstance(student, Field) else Field(student)
    if not linear(field):
        raise OptionError(f"The student must live on the linear path, got {field.path}. Field(net) does.")
    return field


@contextmanager
def workplace(out: str | Path | None) -> Iterator[Path]:
    """The folder of a method; a temporary one for None."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="rheos-") as folder:
        yield Path(folder)


def check_original(field: Field) -> None:
    """Refuse a teacher that is itself a student of few steps: between its steps there is no flow to follow.

    Raises:
        OptionError: With the way out.
    """
    if field.times is not None:
        raise OptionError(
            f"This field was made for its own {len(field.times) - 1} steps and is undefined between them. Distil the "
            "flow that it came from."
        )
    if isinstance(field, TransportField):
        raise OptionError(
            "A TransportField jumps to the data; it has no flow whose paths could be straightened. Distil the flow "
            "that it came from, or give its own pairs: reflow(student, generate(field, folder, n, "
            "recipe=Recipe(steps=1, solver='euler')))."
        )


@torch.no_grad()
def check_teacher(field: Field, cond: Cond | None = None) -> None:
    r"""Refuse a network that was declared to predict the velocity of a linear path and predicts noise.

    At t = 0 the state is the noise $x_0$ itself, and an estimate of the noise *is* it. A velocity is
    $E[x_1 | x_0] - x_0$, which equals the noise only where $E[x_1 | x_0] = 2 x_0$: in a straightened flow of data twice
    as wide as the noise. Such a velocity still points that way where it leads: at t = 1, in $2 x_0$, its slope against
    $x_0$ lies between 1 and 2, and that of an estimate of the noise falls to 0. Nor can it be, if the data have a range
    that $2 x_0$ leaves.

    Args:
        field: The teacher.
        cond: Conditions of some rows; labels are made up.

    Raises:
        OptionError: If the value at t = 0 is the noise and it cannot be a velocity, or for a field of few steps.

    Warns:
        UserWarning: If it follows the noise and may be either.
    """
    check_original(field)
    if field.shape is None or not linear(field) or field.predicts != "velocity":
        return
    n = 64 if not cond else min(64, len(next(iter(cond.values()))))
    given = conditions(field, n, dict(balanced(field, n, {k: v[:n] for k, v in (cond or {}).items()})))
    seeds = row_seeds(0, n)
    x = Draws(seeds).normal(torch.empty(n, *field.shape, dtype=field.dtype), "teacher")
    x = cast(Tensor, x).to(field.device)
    v = cast(Tensor, field.answer(Query(x, 0.0, (0.0, 0.0), given)).value)
    slope = _slope(v, x)
    if slope <= 0.5:
        return
    there = _slope(cast(Tensor, field.answer(Query(x + v, 1.0, (1.0, 1.0), given)).value), v)
    equal, turns, wide = float((v - x).norm() / x.norm()) < 0.2, not 0.7 <= there <= 1.75, _leaves(field, x + v)
    words = (
        f"The teacher's velocity at t = 0 follows the noise (slope {slope:.2f}, a velocity has about -1): it seems "
        "to predict noise. Declare it: Field(net, path='vp', predicts='noise')."
    )
    if equal and (turns or wide):
        raise OptionError(words, slope=slope)
    if equal or there < 0.7:
        warnings.warn(
            f"{words} Data wider than the noise, along straight paths, look the same: then all is well.",
            UserWarning, stacklevel=3,
        )  # fmt: skip


def _slope(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (b * b).sum().clamp(min=1e-12))


def _leaves(field: Field, x: Tensor) -> bool:
    """Whether a quarter of the values lie far outside the data's range."""
    if field.value_range is None:
        return False
    low, high = field.value_range
    slack = 0.1 * (high - low)
    return float(((x < low - slack) | (x > high + slack)).double().mean()) > 0.25


def drawn(
    field: Field,
    folder: Path,
    n: int,
    recipe: Recipe,
    cond: Cond | None = None,
    of: Run | Field | None = None,
    progress: bool | None = None,
    shared: bool = False,
) -> PairStore:
    """Pairs of a field with a bar, continued where they were left; class names and codec are those of the teacher `of`.

    Args:
        field: Draws them: the teacher, or a flow that was made of it.
        folder: Of the store.
        n: Rows.
        recipe: How.
        cond: Conditions with n rows.
        of: The teacher.
        progress: Whether a bar is drawn.
        shared: Whether all processes of a launcher see this folder: each then draws its share and waits for the others.
    """
    names, shard = names_of(of) if of is not None else (), shares() if shared else (0, 1)
    with progress_bar(folder.name, n, progress) as advance:
        store = generate(field, folder, n, recipe=recipe, cond=cond, class_names=names, shard=shard, progress=advance)
    if of is not None:
        store = store.inherits(of, shard)
    return whole(store)


def known(pairs: PairStore | Data, student: Field | None = None) -> Known:
    """Pairs as a data set with what reads their noise, after a look at them.

    Args:
        pairs: A store, or data that deliver "x0" (`given_pairs`).
        student: Who is to learn them.

    Raises:
        OptionError: For data without x0.
        ShapeError: For samples of another shape than the student's.
        DataError: For noise that is not N(0, 1): pairs of another normalisation; for a NaN in a store.
    """
    if isinstance(pairs, PairStore):
        data, source = pairs.check().data(), pairs.source
    else:
        if "x0" not in (pairs.conditions or ()):
            raise OptionError("These data deliver no x0. Make pairs of them: rheos.distill.given_pairs(x0, x1).")
        data, source = pairs, FromCondition("x0", noise=True)
    if student is not None and student.shape not in (None, data.shape):
        raise ShapeError(f"The pairs have samples of shape {data.shape}, the student's have {student.shape}.")
    rows = data.batch(torch.arange(min(len(data), LOOK)))
    x0 = source(rows.x, rows.cond, Draws(row_seeds(0, len(rows.x))))
    assert isinstance(x0, Tensor)
    level, count = float(x0.double().square().mean().sqrt()), x0.numel()
    if abs(level - 1) > max(0.1, 6 / math.sqrt(2 * count)):
        raise DataError(
            f"The noise of these pairs has size {level:.3g} and should have 1: they were made with another "
            "normalisation. Divide it out, or generate the pairs again.",
            level=level,
        )
    return data, source


@torch.no_grad()
def same_teacher(field: Field, pairs: PairStore, rows: int = 4, tolerance: float = 0.02) -> None:
    """Draw a few pairs of a store again and raise unless they are the same.

    Another teacher, another scale of latents (an autoencoder's factor) or a prediction declared wrongly all show here.

    Args:
        field: Said to be the teacher.
        pairs: The store.
        rows: How many rows.
        tolerance: Largest relative distance; bytes and other machines round differently.

    Raises:
        DataError: With the distance, and the factor between the two scales.
    """
    recipe = Recipe(**pairs.about["recipe"])
    index = torch.arange(min(rows, len(pairs)))
    x0, x1, cond = pairs.rows(index)
    times = recipe.times(field)
    guidance = None if recipe.guidance == 1.0 else CFG(recipe.guidance)
    again = draw_solution(
        field, len(index), steps=times, solver=recipe.solver, seed=pairs.column("seed")[index], guidance=guidance,
        source=x0.to(field.device, field.dtype) * level_of(field, times[0]), **cond,
    ).x  # fmt: skip
    there, here = x1.double(), cast(Tensor, again).cpu().double()
    gap = float((there - here).norm() / here.norm().clamp(min=1e-12))
    if gap > tolerance:
        factor = float((there * here).sum() / here.square().sum().clamp(min=1e-12))
        raise DataError(
            f"These pairs are not of this teacher: drawn again they differ by {100 * gap:.0f} % and have {factor:.3g} "
            "times its scale. Generate them again; latents must have the scale of the same autoencoder.",
            gap=gap,
            factor=factor,
        )


def guidance_of(pairs: PairStore | Data | SegmentStore) -> float:
    """The guidance that drew the pairs."""
    return 1.0 if isinstance(pairs, Data) else float(pairs.about["recipe"].get("guidance", 1.0))


def whose(pairs: PairStore, *fields: Field) -> None:
    """Raise unless the pairs are of one of some fields; pairs of real data by inversion are not looked at.

    Args:
        pairs: The store.
        *fields: Said to be the teacher, or the same flow on another path.

    Raises:
        DataError: What `same_teacher` says of the first one.
    """
    if "data" in pairs.about or not len(pairs):
        return
    first: DataError | None = None
    for field in fields:
        try:
            same_teacher(field, pairs)
        except DataError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def made_by(pairs: PairStore, field: Field) -> bool:
    """Whether the store says that it was drawn from this very field."""
    return bool(pairs.about.get("teacher") == fingerprint(field, pairs.given))
