r"""What a reflow must do, as figures: the paths become straighter, and no convex cost of transport grows.

$S = \int E \lVert (x_1 - x_0) - v(x_t, t) \rVert^2 dt$ along the flow's own paths, for each element of a sample; costs
$E \lVert x_1 - x_0 \rVert^p$ of the pairs that the flow makes. `sizes` counts and times two networks.

Reference: Flow Straight and Fast, Liu et al. (2023), theorems 3.3, 3.5 and 3.7, https://arxiv.org/abs/2209.03003
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.core.base import Cond
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.metrics.trajectories import straightness, transport_cost
from rheos.nets.count import flops, parameters
from rheos.sample.draw import conditions, draw_solution
from rheos.sample.guidance import CFG

__all__ = ["Paths", "Size", "SizeReport", "paths", "size", "sizes"]


@final
@dataclass(frozen=True)
class Paths:
    """Figures of a flow's paths.

    Args:
        straightness: S for each element; 0 is straight.
        costs: Transport cost by exponent.
        x0: Where the paths begin.
        x1: Where they end.
    """

    straightness: float
    costs: Mapping[float, float]
    x0: Tensor
    x1: Tensor


def paths(
    field: Field,
    n: int = 512,
    *,
    steps: int = 50,
    seed: int = 0,
    powers: Sequence[float] = (1.0, 2.0),
    guidance: float = 1.0,
    cond: Cond | None = None,
) -> Paths:
    """Walk a flow in small Euler steps and measure its paths.

    Args:
        field: The flow.
        n: Paths.
        steps: Of Euler, for which S is the integral's sum exactly.
        seed: Of the noise.
        powers: Exponents of the transport costs, at least 1, where the cost is convex.
        guidance: Scale of classifier-free guidance.
        cond: Conditions with n rows.

    Raises:
        OptionError: For an exponent below 1.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> field = GaussianMixtureField(means=[[3.0, 0.0]], stds=[1e-6])  # all noise flows to one point: straight
        >>> round(paths(field, 64, steps=10).straightness, 6)
        0.0
    """
    if any(p < 1 for p in powers):
        raise OptionError(f"Transport costs are convex for exponents of at least 1, got {list(powers)}.")
    steer = None if guidance == 1.0 else CFG(guidance)
    solution = draw_solution(
        field,
        n,
        steps=steps,
        solver="euler",
        seed=seed,
        trace=True,
        guidance=steer,
        **cast("dict[str, Any]", cond or {}),
    )
    path = cast(Tensor, solution.path)
    times = torch.tensor(solution.times, dtype=torch.float64)
    elements = path[0, 0].numel()
    costs = {float(p): transport_cost(path[0], path[-1], p) for p in powers}
    return Paths(straightness(path, times) / elements, costs, path[0], path[-1])


@final
@dataclass(frozen=True)
class Size:
    """What a network costs.

    Args:
        parameters: Numbers in it.
        macs: Multiplications with additions of one call, a row.
        seconds: Of one call with the rows that were timed.
    """

    parameters: int
    macs: int
    seconds: float


@final
@dataclass(frozen=True)
class SizeReport:
    """A student beside its teacher.

    Args:
        teacher: What the teacher costs.
        student: What the student costs.
    """

    teacher: Size
    student: Size

    @property
    def shrunk(self) -> float:
        """The student's parameters over the teacher's."""
        return self.student.parameters / self.teacher.parameters

    def __str__(self) -> str:
        def line(name: str, s: Size) -> str:
            return f"{name}: {s.parameters:,} parameters, {s.macs:,} MACs a row, {1e3 * s.seconds:.2f} ms a call"

        return f"{line('teacher', self.teacher)}\n{line('student', self.student)}"


@torch.no_grad()
def size(field: Field, rows: int = 16, repeats: int = 7, cond: Cond | None = None) -> Size:
    """Count and time one network call.

    Args:
        field: It must know its data's shape.
        rows: Of the timed call.
        repeats: Timed calls, of which the median counts.
        cond: Conditions, one row or `rows`; null values unless given.

    Raises:
        OptionError: For a field without a shape.
    """
    if field.shape is None:
        raise OptionError("This field does not know the shape of its data; set field.shape first.")
    like = torch.empty(rows, *field.shape, dtype=field.dtype)
    x = cast(Tensor, Draws(row_seeds(0, rows)).normal(like, "size")).to(field.device)
    given = conditions(field, rows, dict(cond or {}))
    clock = cast(Tensor, field.door(0.5, x))
    net: nn.Module = field.net
    macs = flops(net, x, clock, **given) // (2 * rows)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        net(x, clock, **given)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return Size(parameters(net), macs, median(seconds[1:]))


def sizes(teacher: Field, student: Field, rows: int = 16, cond: Cond | None = None) -> SizeReport:
    """Both networks counted and timed; see `size`."""
    return SizeReport(*(size(field, rows, cond=cond) for field in (teacher, student)))
