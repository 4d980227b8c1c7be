"""Pairs of real data and the noise that a flow would make them of, and batches that mix such pairs in.

Pairs that a teacher draws can be no better than the teacher. Inverting real data along its flow gives pairs whose data
end is real; a share of them in each batch pulls the student past its teacher.

Reference: Improving the Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Coupling, Pairs
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.state import State
from rheos.core.transport import check_rows
from rheos.data.dataset import Data
from rheos.distill.inherited import field_of
from rheos.distill.pairs import Recipe, fingerprint, level_of
from rheos.distill.store import PairStore, fill
from rheos.sample.inversion import invert
from rheos.train import Run

__all__ = ["MixedPairs", "invert_pairs"]


def invert_pairs(
    field: Field | Run,
    data: Data,
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> PairStore:
    """Walk every row of a data set back to its noise, and keep both.

    Args:
        field: The teacher, a field or a run, whose codec the store then keeps.
        data: Real samples in the teacher's range; their conditions go into the inversion and into the store.
        folder: Created, or continued if it holds an unfinished store of the same recipe, teacher and data.
        recipe: Steps, solver, grid, chunk; guidance must be 1, and the noise is stored.
        shard: (k, of): this call makes chunks k, k + of, ..., as in `generate`.
        progress: Called (rows of this shard done, rows of this shard) after each chunk.

    Returns:
        The store, complete when all shards are, rows in the order of the data.

    Raises:
        OptionError: For a recipe with guidance or with noise as seeds.
        ShapeError: For data of another shape than the field's.
        DataError: For data in another range.
        ConditionError: If the field needs a condition that the data do not carry.
        RunError: If the folder holds a store of another recipe, teacher or data, or anything else.
    """
    recipe, teacher, field = recipe or Recipe(steps=50), field, field_of(field)
    if recipe.noise == "seed" or recipe.guidance != 1.0:
        raise OptionError(
            "Inverted noise belongs to no seed, and guidance is not undone: use Recipe(noise='stored', guidance=1)."
        )
    if field.shape is not None and data.shape != field.shape:
        raise ShapeError(f"The teacher makes samples of shape {field.shape}, the data have {data.shape}.")
    every = data.batch(torch.arange(len(data))).cond if field.conditions else {}
    missing = field.conditions - every.keys()
    if missing:
        raise ConditionError(f"The teacher takes {', '.join(sorted(missing))}, which the data do not carry.")
    given = {name: every[name] for name in sorted(field.conditions)}
    n = len(data)
    about = {
        "n": n,
        "recipe": asdict(recipe),
        "teacher": fingerprint(field, given),
        "data": data.fingerprint,
        "shape": list(data.shape),
        "value_range": data.delivers,
        "conditions": sorted(given),
        "class_names": list(data.class_names) if "label" in given else [],
    }
    if recipe.store == "uint8" and data.delivers is None:
        raise OptionError("Bytes need a range of values, which these data have not. Keep them as float32.")
    columns = {"seed": torch.arange(n), **{f"cond_{name}": v for name, v in given.items()}}

    def make(start: int, stop: int) -> dict[str, Tensor]:
        x1 = data.batch(torch.arange(start, stop)).x
        part = {name: v[start:stop].to(field.device) for name, v in given.items()}
        return {"x0": _noise(field, x1.to(field.device, field.dtype), recipe, part), "x1": x1}

    store = fill(Path(folder), about, columns, recipe.chunk, make, progress, shard)
    return store.inherits(teacher, shard)


def _noise(field: Field, x1: Tensor, recipe: Recipe, cond: Cond) -> Tensor:
    """Unit noise that flows to x1."""
    times = recipe.times(field)
    given: dict[str, Any] = dict(cond)
    latent = cast(Tensor, invert(field, x1, steps=times, solver=recipe.solver, **given).x)
    level = level_of(field, times[0])
    return latent if level == 1.0 else latent / level


@final
@dataclass(frozen=True)
class MixedPairs(Coupling):
    """Given pairs, of which the first `fraction` of each batch is replaced by rows of a second store.

    Batches come in random order, so it does not matter which rows make room. Rows of the store are drawn with
    replacement, noise, data and conditions together, keyed by step: a resumed run meets the same.

    Args:
        folder: The second store, such as one of `invert_pairs`.
        fraction: Share of each batch, in [0, 1], rounded to whole rows.

    Raises:
        OptionError: For a fraction outside [0, 1].
        RunError: If there is no store; on first use.

    Example:
        >>> MixedPairs("runs/real", 0.25).accepts_pairs
        True
    """

    folder: str
    fraction: float

    gaussian = False
    accepts_pairs = True

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise OptionError(f"fraction must lie in [0, 1], got {self.fraction}.")

    @cached_property
    def store(self) -> PairStore:
        """The second store, opened once."""
        return PairStore(self.folder)

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Put rows of the store in front.

        Raises:
            ShapeError: If its rows have another shape, or the state is a dict.
            ConditionError: If it has other conditions.
        """
        check_rows(x0, x1)
        if not isinstance(x0, Tensor) or not isinstance(x1, Tensor):
            raise ShapeError("A pair store holds tensors, not states of several parts.")
        k = round(self.fraction * len(x1))
        if k == 0:
            return Pairs(x0, x1, cond)
        n = len(self.store)
        index = (draws.select(slice(0, k)).uniform("mixed") * n).long().clamp_(max=n - 1)
        own0, own1, own = self.store.rows(index)
        if own1.shape[1:] != x1.shape[1:]:
            raise ShapeError(f"The store has rows of shape {tuple(own1.shape[1:])}, the batch {tuple(x1.shape[1:])}.")
        if own.keys() != cond.keys():
            raise ConditionError(f"The store has the conditions {sorted(own)}, the batch {sorted(cond)}.")
        return Pairs(
            torch.cat((own0.to(x0), x0[k:])),
            torch.cat((own1.to(x1), x1[k:])),
            {name: torch.cat((own[name].to(v), v[k:])) for name, v in cond.items()},
        )
