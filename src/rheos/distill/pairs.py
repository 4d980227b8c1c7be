"""Pairs (noise, sample) of a field: how they are drawn, and `generate`, which draws them into a `PairStore`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.data.about import About
from rheos.data.dataset import Data
from rheos.distill.chunks import Filter, filtered, named
from rheos.distill.inherited import field_of, names_of
from rheos.distill.store import PairStore, fill
from rheos.sample.draw import conditions, draw_solution, grid_for
from rheos.sample.grids import Grid
from rheos.sample.guidance import CFG
from rheos.train import Run

__all__ = ["PairStore", "Recipe", "balanced", "classes_of", "fingerprint", "generate", "given_pairs", "level_of"]


@final
@dataclass(frozen=True)
class Recipe:
    """How the samples of a store are drawn, and how they are kept.

    Args:
        steps: Steps of the teacher's grid.
        solver: Name of the teacher's solver.
        guidance: Scale of classifier-free guidance that is baked into the pairs; 1: none.
        seed: Of the rows' seeds.
        chunk: Rows a network call.
        grid: Spacing of the teacher's grid as `Grid.read` takes it, such as "edm"; None: uniform, with its shift.
        noise: "stored", or "seed": eight bytes a row, from which the noise comes back bit by bit.
        store: "float32", or "uint8" for samples with a range of values: rounded to 256 levels, a quarter of the size.

    Raises:
        OptionError: For steps or chunk below 1.
        UnknownOptionError: For an unknown way to keep noise or samples.
        RheosError: For a grid that cannot be read.
    """

    steps: int = 20
    solver: str = "heun"
    guidance: float = 1.0
    seed: int = 0
    chunk: int = 256
    grid: str | None = None
    noise: Literal["stored", "seed"] = "stored"
    store: Literal["float32", "uint8"] = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chunk < 1:
            raise OptionError(f"steps and chunk must be at least 1, got {self.steps} and {self.chunk}.")
        check_choice("noise", self.noise, ("stored", "seed"))
        check_choice("store", self.store, ("float32", "uint8"))
        if self.grid is not None:
            Grid.read(self.grid)

    def times(self, field: Field) -> tuple[float, ...]:
        """The grid on a field."""
        if self.grid is None:
            return grid_for(field, self.steps)
        law = field.path.law if isinstance(field.path, AffinePath) else None
        return grid_for(field, Grid.read(self.grid, field.shift)(self.steps, law))


def generate(
    field: Field | Run,
    folder: str | Path,
    n: int,
    *,
    recipe: Recipe | None = None,
    cond: Cond | None = None,
    class_names: Sequence[str] = (),
    keep: Filter | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> PairStore:
    """Draw n samples of a field and keep them beside their noise.

    Several processes may call it at once with one folder, each with its share of the chunks; a row is the same
    whoever makes it. What was made before an interruption is not made again.

    Args:
        field: The teacher, which must know its data's shape; of a run the store keeps class names and codec too.
        folder: Created, or continued if it holds an unfinished store of the same recipe.
        n: Rows.
        recipe: Steps, solver, guidance, seed.
        cond: Conditions with n rows; labels are balanced when they are not given.
        class_names: Names to keep beside labels; the run's, or numbers, unless given.
        keep: Whether a sample is good enough, from samples and their conditions; rejected rows are drawn anew from
            other seeds, so the noise of what is kept is no longer quite normal.
        shard: (k, of): this call makes chunks k, k + of, ...
        progress: Called (rows of this shard done, rows of this shard) after each chunk.

    Returns:
        The store, complete when all shards are; opened at once if it was there already.

    Raises:
        OptionError: For n < 1, a shard outside its number, a field without a shape, or conditions that cannot be made
            up.
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
        DataError: If the filter keeps nothing in 20 attempts at a row.
        NonFiniteError: If the teacher gives a NaN.
    """
    recipe, teacher, field = recipe or Recipe(), field, field_of(field)
    if n < 1:
        raise OptionError(f"n must be at least 1, got {n}.")
    if field.shape is None:
        raise OptionError("This field does not know the shape of its data; set field.shape first.")
    if recipe.store == "uint8" and field.value_range is None:
        raise OptionError("Bytes need a range of values, which this field has not. Keep its samples as float32.")
    if recipe.noise == "seed" and not field.path.flat:
        raise OptionError(f"Seeds bring back normal noise, not points of {field.path.space}. Use noise='stored'.")
    if field.times is not None and recipe.grid is None and recipe.steps != len(field.times) - 1:
        own = len(field.times) - 1
        raise OptionError(
            f"This field was made for its own {own} steps, got steps={recipe.steps}. Distil the flow that it came "
            f"from, or to draw this field's own pairs take Recipe(steps={own}, solver='euler')."
        )
    given = conditions(field, n, dict(balanced(field, n, cond)))
    classes = classes_of(field)
    seeds = row_seeds(recipe.seed, n)
    about = {
        "n": n,
        "recipe": asdict(recipe),
        "teacher": fingerprint(field, given),
        "filter": named(keep),
        "shape": list(field.shape),
        "value_range": field.value_range,
        "conditions": sorted(given),
        "class_names": list(class_names or names_of(teacher)) or [str(k) for k in range(classes)],
    }
    columns = {"seed": seeds, **{f"cond_{name}": v for name, v in given.items()}}

    def make(start: int, stop: int) -> dict[str, Tensor]:
        part = {name: v[start:stop] for name, v in given.items()}
        found, used = filtered(pairs, lambda made: made["x1"], keep, seeds[start:stop], part)
        return found if keep is None else {**found, "seed": used}

    def pairs(some: Tensor, part: Cond) -> dict[str, Tensor]:
        x0, x1 = _drawn(field, some, recipe, part)
        return {"x1": x1} if recipe.noise == "seed" else {"x0": x0, "x1": x1}

    store = fill(Path(folder), about, columns, recipe.chunk, make, progress, shard)
    return store.inherits(teacher, shard)


def given_pairs(x0: Tensor, x1: Tensor, value_range: tuple[float, float] | None = None, **cond: Tensor) -> Data:
    """Pairs of your own as a data set whose batches carry x0 beside the conditions, for `GivenPairs`.

    Args:
        x0: Noise (N, ...).
        x1: Samples of the same shape.
        value_range: Lowest and highest value of samples, where they have such.
        **cond: Conditions with N rows; "label" holds classes 0 .. K - 1.

    Raises:
        ShapeError: If noise and samples differ in shape.
        ConditionError: If a condition has not N rows.

    Example:
        >>> given_pairs(torch.zeros(3, 2), torch.ones(3, 2)).batch(torch.tensor([1])).cond["x0"]
        tensor([[0., 0.]])
    """
    if x0.shape != x1.shape:
        raise ShapeError(f"Pairs need noise like samples, got {tuple(x0.shape)} and {tuple(x1.shape)}.")
    for name, value in cond.items():
        if len(value) != len(x1):
            raise ConditionError(f"{name} has {len(value)} rows for {len(x1)} pairs.")
    classes = int(cond["label"].max()) + 1 if "label" in cond else 0
    about = About(
        name="pairs", class_names=tuple(str(k) for k in range(classes)), range=value_range, delivers=value_range
    )
    return Data(x1.float(), {"x0": x0.float(), **cond}, about, conditions=("x0", *sorted(cond)))


def _drawn(field: Field, seeds: Tensor, recipe: Recipe, cond: Cond) -> tuple[Tensor, Tensor]:
    """Unit noise of the seeds, and where it flows."""
    times, m = recipe.times(field), len(seeds)
    noise = field.path.space.random(torch.empty(m, *cast("tuple[int, ...]", field.shape)), Draws(seeds), "source")
    assert isinstance(noise, Tensor)
    level = level_of(field, times[0])
    start = noise.to(field.device, field.dtype)
    solution = draw_solution(
        field, m, steps=times, solver=recipe.solver, seed=seeds, source=start if level == 1.0 else start * level,
        guidance=None if recipe.guidance == 1.0 else CFG(recipe.guidance), **cond,
    )  # fmt: skip
    return noise, cast(Tensor, solution.x)


def level_of(field: Field, t: float) -> float:
    """The factor of unit noise where a flow begins at time t: sigma, which is far from 1 on VE and EDM paths."""
    return float(field.path.law.sigma(t)) if isinstance(field.path, AffinePath) else 1.0


def fingerprint(field: Field, given: Cond) -> str:
    """What the pairs depend on beside the recipe: the teacher's weights and meaning, and the conditions."""
    digest = blake2b(digest_size=16)
    digest.update(repr((field.path, field.predicts, field.shift)).encode())
    for name, value in [*field.state_dict().items(), *sorted(given.items())]:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def classes_of(field: Field) -> int:
    """How many classes the network has; 0 for none. A preconditioner's are those of the network in it."""
    config = getattr(field.net, "config", None) or {}
    inner = config.get("net")
    return int(config.get("classes", 0) or (inner.get("classes", 0) if isinstance(inner, Mapping) else 0) or 0)


def balanced(field: Field, n: int, cond: Cond | None) -> Cond:
    """The given conditions, with balanced labels where a class-conditional field gets none."""
    given = dict(cond or {})
    missing = field.conditions - given.keys()
    classes = classes_of(field)
    if "label" in missing and classes:
        given["label"] = torch.arange(n) % classes
        missing = missing - {"label"}
    if missing:
        raise OptionError(f"Pairs need the conditions {', '.join(sorted(missing))}: give cond with {n} rows.")
    return given
