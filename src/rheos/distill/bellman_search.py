r"""How Bellman costs are measured: fine trajectories of a flow, and what one long step from each anchor would miss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float64
from torch import Tensor

from rheos.core.base import Cond, Context, Premetric
from rheos.core.draws import row_seeds
from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.distill.fine import check_fine, walk
from rheos.distill.pairs import balanced
from rheos.metrics.perceptual import check_pictures, perceptual
from rheos.sample.draw import conditions, grid_for
from rheos.sample.grids import Grid

__all__ = ["BellmanSearch", "measure"]

AT_ONCE = 2**24
"""Numbers of differences held at a time."""
NETS = ("lpips", "digits", "mnist5k", "emoji")


@final
@dataclass(frozen=True)
class BellmanSearch:
    """How the costs are measured.

    Args:
        anchors: M, steps of the fine grid; explicit times in `grid` have their own number.
        rows: N, trajectories.
        cost: "l2", the paper's; "lpips", "digits", "mnist5k" or "emoji", perceptual distances of states cut to the
            field's range of values; or a `Premetric`.
        solver: Of the fine trajectories, deterministic with fixed steps. With "euler" neighbouring anchors cost
            nothing: errors inside the fine grid are not seen. "heun" or "rk4" stand for the flow itself and see them.
        guidance: Scale of classifier-free guidance; 1: none.
        seed: Of the rows' seeds.
        batch: Rows walked at a time; it changes nothing else.
        grid: Spacing of the anchors as `Grid.read` takes it, such as "edm"; None: uniform, with the field's shift.

    Raises:
        OptionError: For anchors, rows or batch below 1.
        UnknownOptionError: For an unknown cost.
        RheosError: For a grid that cannot be read.
    """

    anchors: int = 100
    rows: int = 100
    cost: str | Premetric = "l2"
    solver: str = "euler"
    guidance: float = 1.0
    seed: int = 0
    batch: int = 50
    grid: str | None = None

    def __post_init__(self) -> None:
        for name in ("anchors", "rows", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if isinstance(self.cost, str):
            check_choice("cost", self.cost, ("l2", *NETS))
        if self.grid is not None:
            Grid.read(self.grid)

    def times(self, field: Field) -> tuple[float, ...]:
        """The anchors on a field, inside its finite range."""
        law = field.path.law if isinstance(field.path, AffinePath) else None
        grid = Grid(shift=field.shift) if self.grid is None else Grid.read(self.grid, field.shift)
        return grid_for(field, grid(grid.steps or self.anchors, law))


@torch.no_grad()
def measure(
    field: Field,
    search: BellmanSearch,
    *,
    cond: Cond | None = None,
    images: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[float, ...], Float64[Tensor, "m m"]]:
    """Anchors, and the costs of the steps between them; see `rheos.distill.bellman_costs`.

    Args:
        field: The flow.
        search: Anchors, rows, cost.
        cond: Conditions with a row a trajectory; labels are balanced when they are not given.
        images: Real samples: the trajectories are then walked backwards from these, one a row.
        progress: Called (rows done, rows) after each batch.

    Raises:
        OptionError: For a stochastic or adaptive solver, a curved space, a field without a shape, guidance or
            conditions that cannot be had, or a perceptual cost without a range of values.
        ShapeError: For images, or a perceptual cost of samples, of another shape.
        NonFiniteError: If the flow gives a NaN.
    """
    n = search.rows if images is None else len(images)
    metric = _metric(field, search.cost)
    method = check_fine(field, search.solver, search.guidance)
    if images is not None and tuple(images.shape[1:]) != field.shape:
        raise ShapeError(f"Images have shape {tuple(images.shape[1:])}, the field's samples {field.shape}.")
    given = conditions(field, n, dict(balanced(field, n, cond)))
    times, seeds = search.times(field), row_seeds(search.seed, n)
    total = torch.zeros(len(times), len(times), dtype=torch.float64)
    size = torch.zeros(len(times), dtype=torch.float64)
    for start in range(0, n, search.batch):
        cut = slice(start, min(start + search.batch, n))
        part = {name: v[cut] for name, v in given.items()}
        source = None if images is None else images[cut].to(field.device, field.dtype)

        def go(
            source: Tensor | None, grid: Sequence[float], part: Cond = part, cut: slice = cut
        ) -> tuple[Tensor, Tensor]:
            return walk(
                field,
                source,
                grid,
                range(len(grid)),
                solver=method,
                guidance=search.guidance,
                seeds=seeds[cut],
                cond=part,
            )

        if source is None:
            x, v = go(None, times)
        else:
            back, left = go(source, times[::-1])
            first = go(back[-1], times[:2])[1]  # a walk backwards does not ask where it ends
            x, v = back.flip(0), torch.cat([first, left.flip(0)[:-1]])
        total += _block(x, v, times, metric)
        size += x.double().flatten(2).square().sum((1, 2)).cpu()
        if progress is not None:
            progress(cut.stop, n)
    values = total / n
    if metric is None:  # what rounding alone makes is no curvature
        eps = torch.finfo(field.dtype).eps
        floor = len(times) * (4 * eps) ** 2 * (size[:, None] + size[None]) / n
        values = torch.where(values <= floor, 0.0, values)
    values = values.masked_fill(torch.ones_like(values, dtype=torch.bool).tril(), torch.inf)
    return times, values


def _block(x: Tensor, v: Tensor, times: Sequence[float], metric: Premetric | None) -> Tensor:
    """Costs of the rows of a batch, summed over rows."""
    m, b = len(times) - 1, x.shape[1]
    found = torch.zeros(m + 1, m + 1, dtype=torch.float64)
    clock = torch.tensor(times, dtype=torch.float64, device=x.device)
    chunk = max(1, AT_ONCE // (x[0, 0].numel() * (m + 1)))
    for start in range(0, b, chunk):
        xs, vs = (part[:, start : start + chunk] for part in (x, v))
        if metric is None:
            xs, vs = xs.double().flatten(2), vs.double().flatten(2)
        for j in range(m):
            step = (clock[j + 1 :] - clock[j]).reshape(-1, *(1,) * (xs.ndim - 1))
            reached = xs[j] + step.to(xs.dtype) * vs[j]
            if metric is None:
                row = (xs[j + 1 :] - reached).square().sum((1, 2))
            else:
                row = _seen(metric, reached, xs[j + 1 :], clock[j + 1 :])
            found[j, j + 1 :] += row.cpu()
    return found


def _seen(metric: Premetric, reached: Tensor, true: Tensor, clock: Tensor) -> Tensor:
    """A perceptual distance of each pair, summed over rows, time by time: nets are large."""
    rows = [metric(a, b, Context(b, t.expand(len(b)), a, b)) for a, b, t in zip(reached, true, clock, strict=True)]
    return torch.stack([r.double().sum() for r in rows])


@final
@dataclass(frozen=True)
class _Cut(Premetric):
    """A premetric of states cut to a range of values."""

    inner: Premetric
    low: float
    high: float

    def __call__(self, prediction: Any, target: Any, context: Context) -> Tensor:
        """(B,) distances."""
        return self.inner(prediction.clamp(self.low, self.high), target.clamp(self.low, self.high), context)


def _metric(field: Field, cost: str | Premetric) -> Premetric | None:
    """The cost as a premetric; None for the paper's."""
    if cost == "l2":
        return None
    span = field.value_range
    if span is None:
        raise OptionError(
            "A perceptual cost needs the range of the samples' values, which this field has not. Use 'l2'."
        )
    if isinstance(cost, Premetric):
        return _Cut(cost, *span)
    shape = field.shape or ()
    if cost == "lpips":
        check_pictures((1, *shape))
    elif len(shape) != 3 or shape[0] not in (1, 3):
        raise ShapeError(f"The cost {cost!r} looks at pictures (1 or 3, H, W), samples have shape {shape}. Use 'l2'.")
    return _Cut(perceptual(cost, span), *span)
