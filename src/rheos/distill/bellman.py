r"""Bellman step sizes: the K steps whose summed Euler errors on a flow's own fine trajectories are least.

On anchors $t_0 < \dots < t_M$ one Euler step from $t_j$ to $t_k$ misses the fine trajectory by

$$ c_{jk} = \mathbb{E}\,\lVert x_k - x_j - (t_k - t_j)\, v(x_j, t_j) \rVert^2, \qquad j < k, $$

and the steps are the cheapest path from 0 to M with exactly K edges, found by dynamic programming:
$V_1(j) = c_{jM}$, $V_r(j) = \min_{j < l < M} c_{jl} + V_{r-1}(l)$. One matrix serves every K. Nothing is trained.

Reference: Bellman Optimal Step-size Straightening, Nguyen et al. (2024), section 4.1, https://arxiv.org/abs/2312.16414
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, final, overload

import torch
from jaxtyping import Float64
from torch import Tensor

from rheos.core import config as plain
from rheos.core.base import Cond
from rheos.core.errors import DataError, OptionError, RunError, ShapeError
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.distill.bellman_search import BellmanSearch, measure
from rheos.distill.fine import nodes
from rheos.distill.pairs import fingerprint

__all__ = ["BellmanCosts", "BellmanSchedule", "BellmanSearch", "bellman_costs", "cheapest"]

FORMAT = 1


@final
@dataclass(frozen=True, eq=False)
class BellmanCosts:
    """The matrix of costs; `best` finds the steps.

    Args:
        times: The M + 1 anchors.
        values: float64 (M + 1, M + 1): the cost of the step from row to column; infinite at and below the diagonal.
        teacher: Fingerprint of the field.
        search: How they were measured.

    Raises:
        ShapeError: If the matrix is not that of the anchors.
        DataError: If a cost above the diagonal is NaN, infinite or negative.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> flow = GaussianMixtureField(means=[[-2.0], [1.5]], stds=[0.5, 0.3])
        >>> costs = bellman_costs(flow, BellmanSearch(anchors=20))
        >>> costs.best(3).cost <= costs.even(3)
        True
    """

    times: tuple[float, ...]
    values: Float64[Tensor, "m m"] = field(repr=False)
    teacher: str
    search: BellmanSearch

    def __post_init__(self) -> None:
        m = len(self.times) - 1
        if tuple(self.values.shape) != (m + 1, m + 1):
            raise ShapeError(f"{m} steps need costs ({m + 1}, {m + 1}), got {tuple(self.values.shape)}.")
        above = self.values[torch.triu(torch.ones_like(self.values, dtype=torch.bool), 1)]
        if not bool((above.isfinite() & (above >= 0)).all()):
            bad = float(above[~(above.isfinite() & (above >= 0))][0])
            raise DataError(f"Costs are finite and not negative, got {bad}. Measure them again.")

    @property
    def steps(self) -> int:
        """M."""
        return len(self.times) - 1

    def best(self, evaluations: int) -> "BellmanSchedule":
        """The cheapest steps.

        Args:
            evaluations: K, at most M.

        Raises:
            OptionError: For K < 1 or K > M.
        """
        path, cost = cheapest(self.values, self.times, evaluations)
        times = tuple(self.times[k] for k in path)
        return BellmanSchedule(times, cost, self.even(evaluations), self.teacher, self.search)

    def along(self, times: Sequence[float]) -> float:
        """The summed cost of given times, which must be anchors.

        Raises:
            TimeError: If one is no anchor.
        """
        path = nodes(times, self.times)
        return float(sum(float(self.values[j, k]) for j, k in pairwise(path)))

    def even(self, evaluations: int) -> float:
        """The summed cost of evenly spaced anchors, to the nearest one: uniform steps on a uniform grid."""
        _check_count(evaluations, self.steps)
        return self.along([self.times[round(self.steps * k / evaluations)] for k in range(evaluations + 1)])

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all."""
        rows = [self.values[j, j + 1 :].tolist() for j in range(self.steps)]
        about = {"times": self.times, "costs": rows, **_about(self.teacher, self.search)}
        return write_whole(path, json.dumps(about) + "\n")

    @classmethod
    def load(cls, path: str | Path, field: Field | None = None) -> "BellmanCosts":
        """Read what `save` wrote.

        Args:
            path: The file.
            field: The field that the costs must belong to, where one is given.

        Raises:
            DataError: If the file cannot be read, or its costs are damaged.
            RunError: If they were measured on another field.
        """
        told = _read(Path(path), field, ("times", "costs"))
        m = len(told["times"]) - 1
        values = torch.full((m + 1, m + 1), torch.inf, dtype=torch.float64)
        rows = told["costs"]
        if len(rows) != m or any(len(row) != m - j for j, row in enumerate(rows)):
            raise ShapeError(f"{path} has costs of another size than its {m} steps need. Measure them again.")
        for j, row in enumerate(rows):
            values[j, j + 1 :] = torch.tensor(row, dtype=torch.float64)
        return cls(tuple(told["times"]), values, told["teacher"], told["search"])


@final
@dataclass(frozen=True)
class BellmanSchedule(Sequence[float]):
    """The K + 1 times between K steps; `draw(field, steps=schedule, solver="euler")` takes it as it is.

    Args:
        times: From the first anchor to the last.
        cost: Summed over the steps.
        even: The same of evenly spaced anchors.
        teacher: Fingerprint of the field that it was searched for.
        search: How.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import draw
        >>> flow = GaussianMixtureField(means=[[-2.0], [1.5]], stds=[0.5, 0.3])
        >>> schedule = BellmanSchedule.fit(flow, 4, BellmanSearch(anchors=20))
        >>> draw(flow, 8, steps=schedule, solver="euler").shape
        torch.Size([8, 1])
    """

    times: tuple[float, ...]
    cost: float
    even: float
    teacher: str = field(repr=False)
    search: BellmanSearch = field(repr=False)

    @classmethod
    def fit(
        cls,
        field: Field,
        evaluations: int,
        search: BellmanSearch | None = None,
        *,
        cond: Cond | None = None,
        images: Tensor | None = None,
    ) -> "BellmanSchedule":
        """Measure the costs of a field and take the cheapest steps; see `bellman_costs`.

        Raises:
            OptionError: For fewer than one evaluation, or more than anchors.
            RheosError: As `bellman_costs`.
        """
        search = search or BellmanSearch()
        _check_count(evaluations, len(search.times(field)) - 1)
        return bellman_costs(field, search, cond=cond, images=images).best(evaluations)

    @property
    def guidance(self) -> float:
        """The scale that it was searched with; `draw` refuses another."""
        return self.search.guidance

    @property
    def lengths(self) -> tuple[float, ...]:
        """Of the steps."""
        return tuple(b - a for a, b in pairwise(self.times))

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...
    def __getitem__(self, index: int | slice) -> float | tuple[float, ...]:
        return self.times[index]

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[float]:
        return iter(self.times)

    def __str__(self) -> str:
        """The times as `rheos sample --grid` takes them."""
        return ",".join(f"{t:.12g}" for t in self.times)

    def check(self, field: Field) -> None:
        """Raise `RunError` unless it was searched for this field."""
        _check_teacher("These times", self.teacher, field)

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all."""
        about = {"times": self.times, "cost": self.cost, "even": self.even, **_about(self.teacher, self.search)}
        return write_whole(path, json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, field: Field | None = None) -> "BellmanSchedule":
        """Read what `save` wrote.

        Args:
            path: The file.
            field: The field that it must have been searched for; None: any (transfer to another field works less well).

        Raises:
            DataError: If the file cannot be read.
            RunError: If it belongs to another field.
        """
        told = _read(Path(path), field, ("times", "cost", "even"))
        return cls(tuple(told["times"]), told["cost"], told["even"], told["teacher"], told["search"])


def bellman_costs(
    field: Field,
    search: BellmanSearch | None = None,
    *,
    cond: Cond | None = None,
    images: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BellmanCosts:
    """Walk fine trajectories and measure what each step would cost.

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
    search = search or BellmanSearch()
    times, values = measure(field, search, cond=cond, images=images, progress=progress)
    return BellmanCosts(times, values, fingerprint(field, {}), search)


def cheapest(values: Float64[Tensor, "m m"], times: Sequence[float], evaluations: int) -> tuple[tuple[int, ...], float]:
    r"""The cheapest path from the first anchor to the last in exactly K steps, and its cost; $O(M^2 K)$.

    Among paths of equal cost the most uniform one is taken, whose squared lengths have the least sum: a straight flow,
    where every step costs nothing, gets even steps.

    Args:
        values: (M + 1, M + 1) costs of steps, from row to column.
        times: The anchors.
        evaluations: K.

    Raises:
        OptionError: For K < 1 or K > M.

    Example:
        >>> free = torch.zeros(5, 5, dtype=torch.float64)
        >>> cheapest(free, [0.0, 0.25, 0.5, 0.75, 1.0], 2)
        ((0, 2, 4), 0.0)
    """
    m = len(times) - 1
    _check_count(evaluations, m)
    clock = torch.tensor(list(times), dtype=torch.float64)
    length = (clock[None] - clock[:, None]).square()
    forward = torch.ones(m + 1, m + 1, dtype=torch.bool).triu(1)
    forward[:, m] = False  # the end is reached by the last step alone
    cost, second = values[:, m].clone(), length[:, m].clone()
    cost[m] = torch.inf
    choices = []
    for _ in range(evaluations - 1):
        through = torch.where(forward, values + cost[None], torch.inf)
        least = through.min(1).values
        ties = through == least[:, None]
        even = torch.where(ties, length + second[None], torch.inf)
        second, choice = even.min(1)
        cost = least
        choices.append(choice)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return (*path, m), float(cost[0])


def _check_count(evaluations: int, steps: int) -> None:
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or not 1 <= evaluations <= steps:
        raise OptionError(
            f"evaluations must be a whole number from 1 to the {steps} steps of the fine grid, got {evaluations!r}."
        )


def _about(teacher: str, search: BellmanSearch) -> dict[str, Any]:
    return {"format": FORMAT, "teacher": teacher, "search": plain.dump(search, "search")}


def _read(path: Path, field: Field | None, names: tuple[str, ...]) -> dict[str, Any]:
    """A file of ours, with its search made into an object."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        missing = [n for n in ("format", "teacher", "search", *names) if n not in told]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as Bellman steps: {error}.") from error
    if missing or told["format"] > FORMAT:
        what = f"lacks {', '.join(missing)}" if missing else f"has format {told['format']}, newer than {FORMAT}"
        raise DataError(f"{path} {what}. Measure it again.")
    search = plain.load(told["search"], expect=BellmanSearch, name="search")
    if field is not None:
        _check_teacher(str(path), told["teacher"], field)
    return {**cast(Mapping[str, Any], told), "search": search}


def _check_teacher(what: str, teacher: str, field: Field) -> None:
    if teacher != fingerprint(field, {}):
        raise RunError(
            f"{what} belongs to another field (its weights or its path differ). Search again for this one, or load it "
            "without a field to transfer it."
        )
