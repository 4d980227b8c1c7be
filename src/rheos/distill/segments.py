r"""Segments $(x_s, s, x_t, t)$ of a teacher's trajectories on disk: what chords are learned from.

A store keeps the states of n trajectories at K + 1 times of a fine grid, `x.npy` of shape (K + 1, n, ...), so segment k
of row i leads from x[k, i] to x[k + 1, i], and all K n segments are two views of one memory-mapped file. A row is a
function of its seed, so several processes may fill one store, in any order, and an interruption costs one chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import row_seeds
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.distill.bellman_search import BellmanSearch
from rheos.distill.chunks import Filter, filtered, named, share
from rheos.distill.fine import check_fine, nodes, walk
from rheos.distill.inherited import field_of, names_of
from rheos.distill.pairs import balanced, classes_of, fingerprint
from rheos.distill.segment_store import FORMAT, SegmentStore, opened, write
from rheos.sample.draw import conditions
from rheos.train import Run

__all__ = ["Filter", "SegmentRecipe", "SegmentStore", "generate_segments"]


@final
@dataclass(frozen=True)
class SegmentRecipe:
    """The fine trajectories of a store.

    Args:
        steps: Steps of the fine grid.
        solver: Deterministic, with fixed steps.
        guidance: Scale of classifier-free guidance that is baked into the states; 1: none.
        seed: Of the rows' seeds.
        chunk: Rows walked at a time, and between two marks of progress.
        grid: Spacing of the fine grid as `Grid.read` takes it, such as "edm"; None: uniform, with the field's shift.

    Raises:
        OptionError: For steps or chunk below 1.
        RheosError: For a grid that cannot be read.
    """

    steps: int = 100
    solver: str = "euler"
    guidance: float = 1.0
    seed: int = 0
    chunk: int = 256
    grid: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chunk < 1:
            raise OptionError(f"steps and chunk must be at least 1, got {self.steps} and {self.chunk}.")
        if self.grid is not None:
            BellmanSearch(grid=self.grid)

    def times(self, field: Field) -> tuple[float, ...]:
        """The fine grid on a field: the anchors of a search with as many steps."""
        return BellmanSearch(anchors=self.steps, grid=self.grid).times(field)


def generate_segments(
    field: Field | Run,
    folder: str | Path,
    n: int,
    times: Sequence[float] | None = None,
    *,
    recipe: SegmentRecipe | None = None,
    cond: Cond | None = None,
    class_names: Sequence[str] = (),
    keep: Filter | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> SegmentStore:
    """Walk n fine trajectories of a field and keep their states at some times.

    Several processes may call it at once with one folder, each with its share of the chunks; a row is the same
    whoever makes it. What was made before an interruption is not made again.

    Args:
        field: The teacher, which must know its data's shape; of a run the store keeps class names and codec too.
        folder: Created, or continued if it holds a store of the same recipe.
        n: Rows.
        times: The K + 1 times, all on the fine grid; every one of them unless given. A progressive distillation keeps
            every second time of its teacher's grid.
        recipe: Fine grid, solver, guidance, seed.
        cond: Conditions with n rows; labels are balanced when they are not given.
        class_names: Names to keep beside labels; the run's, or numbers, unless given.
        keep: Whether a trajectory is good enough, from its end and conditions; rejected rows are drawn anew from other
            seeds, so the noise of what is kept is no longer quite normal.
        shard: (k, of): this call makes chunks k, k + of, ...
        progress: Called (rows of this shard done, rows of this shard) after each chunk.

    Returns:
        The store, complete when all shards are.

    Raises:
        OptionError: For n < 1, a shard outside its number, a field without a shape, a stochastic or adaptive solver,
            or conditions that cannot be made up.
        TimeError: For times that are not on the fine grid.
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
        DataError: If the filter keeps nothing in 20 attempts at a row.
        NonFiniteError: If the teacher gives a NaN.
    """
    recipe, teacher, field = recipe or SegmentRecipe(), field, field_of(field)
    if n < 1:
        raise OptionError(f"n must be at least 1, got {n}.")
    mine = share(n, recipe.chunk, shard)
    method = check_fine(field, recipe.solver, recipe.guidance)
    fine = recipe.times(field)
    at = list(range(len(fine))) if times is None else nodes(times, fine, "times of the fine grid")
    given = conditions(field, n, dict(balanced(field, n, cond)))
    classes = classes_of(field) or (int(given["label"].max()) + 1 if "label" in given else 0)
    about = {
        "format": FORMAT,
        "n": n,
        "times": [fine[k] for k in at],
        "recipe": asdict(recipe),
        "teacher": fingerprint(field, given),
        "filter": named(keep),
        "shape": list(field.shape or ()),
        "value_range": field.value_range,
        "conditions": sorted(given),
        "class_names": list(class_names or names_of(teacher)) or [str(k) for k in range(classes)],
    }
    columns = {"seed": row_seeds(recipe.seed, n), **{f"cond_{name}": v for name, v in given.items()}}
    maps = opened(Path(folder), about, columns)

    def walked(seeds: Tensor, part: Cond) -> dict[str, Tensor]:
        with torch.no_grad():
            states = walk(field, None, fine, at, solver=method, guidance=recipe.guidance, seeds=seeds, cond=part).x
        return {"x": states.transpose(0, 1)}

    made, total = 0, sum(rows.stop - rows.start for rows in mine)
    for rows in mine:
        if not maps["done"][rows.start // recipe.chunk]:
            part = {name: v[rows] for name, v in given.items()}
            found, used = filtered(walked, lambda made: made["x"][:, -1], keep, columns["seed"][rows], part)
            write(maps, rows, found["x"].transpose(0, 1), used, recipe.chunk)
        made += rows.stop - rows.start
        if progress is not None:
            progress(made, total)
    store = SegmentStore(folder)
    return store.inherits(teacher) if shard[0] == 0 else store.inheriting(teacher)
