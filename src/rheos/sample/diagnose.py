r"""Where a sampler's error comes from: its steps, or the network.

At every time of a grid three laws are compared: the true marginal, made of data and noise; the states of a very fine
solve, which err by the network alone (approximation); and those of the coarse solve, which err by both. States are
compared as populations, because the samples of a flow belong to no data point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.solver import Solver
from rheos.core.steer import Steer
from rheos.metrics import frechet
from rheos.sample.draw import draw_solution, grid_for
from rheos.sample.grids import Grid

__all__ = ["SamplingError", "sampling_error"]


@final
@dataclass(frozen=True)
class SamplingError:
    """Fréchet distances to the true marginal at each time.

    Args:
        times: The grid, N + 1 times.
        floor: Between two halves of the truth: what even a perfect sampler shows.
        fine: Of the fine solve: the network's error.
        coarse: Of the sampler: both errors.
        evaluations: Network calls a sample of the sampler.
    """

    times: tuple[float, ...]
    floor: tuple[float, ...]
    fine: tuple[float, ...]
    coarse: tuple[float, ...]
    evaluations: float

    @property
    def discretisation(self) -> tuple[float, ...]:
        """The part of the sampler: coarse less fine; negative where its error makes up for the network's."""
        return tuple(b - a for a, b in zip(self.fine, self.coarse, strict=True))


def sampling_error(
    field: Field,
    data: Tensor,
    steps: int | Sequence[float] | Grid = 10,
    solver: Solver | str = "dpm++2m",
    *,
    steers: Sequence[Steer] = (),
    features: Callable[[Tensor], Tensor] | None = None,
    fine: int = 1000,
    seed: int = 0,
    **options: object,
) -> SamplingError:
    """Measure both errors of a sampler along its grid.

    Args:
        field: The flow.
        data: Data that the flow should reach, (n, ...): as many samples are drawn. Some thousands give a low floor.
        steps: Steps of the sampler, or its times.
        solver: The sampler.
        steers: Its hooks, such as `DualFast`; the fine solve goes without them.
        features: From states to features (n, d) that are compared; the numbers themselves unless given.
        fine: Steps of the fine solve (Heun), at least ten times those of the sampler.
        seed: Of noise.
        **options: Conditions and guidance, as in `draw`.

    Raises:
        OptionError: If the fine solve is not fine, or the grid runs backwards.
        ShapeError: If the data have another shape than the field's.

    Reference: the analysis of DualFast, Yu et al. (2025), https://arxiv.org/abs/2506.13058
    """
    n, times = len(data), grid_for(field, steps)
    if field.shape is not None and tuple(data.shape[1:]) != field.shape:
        raise ShapeError(f"data has samples of shape {tuple(data.shape[1:])}, the field of {field.shape}.")
    if fine < 10 * (len(times) - 1):
        raise OptionError(f"fine must be at least {10 * (len(times) - 1)}, ten times the steps, got {fine}.")
    if times[0] > times[-1]:
        raise OptionError("Errors are measured from noise to data, this grid runs backwards.")
    data = data.to(field.dtype)
    given = cast(dict[str, Any], {**options, "shape": tuple(data.shape[1:]), "trace": True})
    coarse = draw_solution(field, n, steps=times, solver=solver, steers=steers, seed=seed, **given)
    part = max(1, round(fine / (len(times) - 1)))
    dense = [a + (b - a) * k / part for a, b in pairwise(times) for k in range(part)] + [times[-1]]
    reference = draw_solution(field, n, steps=dense, solver="heun", seed=seed + 1, **given)
    noise = cast(Tensor, Draws(row_seeds(seed + 2, n)).normal(data, "truth"))
    look = features or (lambda x: x.flatten(1))
    out: list[tuple[float, float, float]] = []
    for k, t in enumerate(times):
        truth = look(cast(Tensor, field.path.sample(noise, data, t).xt)).double()
        mixed = torch.randperm(n, generator=torch.Generator().manual_seed(k))
        halves = truth[mixed[: n // 2]], truth[mixed[n // 2 :]]
        states = cast(Tensor, reference.path)[k * part], cast(Tensor, coarse.path)[k]
        distances = [frechet(look(s).double(), truth) for s in states]
        out.append((frechet(*halves), distances[0], distances[1]))
    floor, exact, both = zip(*out, strict=True)
    return SamplingError(times, floor, exact, both, coarse.rows / n)
