"""`draw`: samples from a field; `solve`: the same from a given start, with everything in hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, NonFiniteError, OptionError, ShapeError
from rheos.core.field import Field, Reply
from rheos.core.paths import AffinePath
from rheos.core.solver import DONE, Solver
from rheos.core.state import State, concat, is_finite, map_state, rows
from rheos.core.steer import Steer
from rheos.sample.grids import Grid, check_grid
from rheos.sample.guidance import CFG
from rheos.sample.loop import Flight, Loop
from rheos.sample.methods import solver as named_solver

__all__ = ["Solution", "conditions", "draw", "drive", "grid_for", "solve"]


@final
@dataclass(frozen=True)
class Solution:
    """What a solve returns.

    Args:
        x: Final state, rows first.
        calls: Network calls.
        rows: Rows evaluated in all calls together.
        times: The grid.
        seeds: int64 (B,): the seed of each row.
        path: States at the grid's times, stacked (N + 1, B, ...), when a trace was asked for.
        source: The states at times[0].
    """

    x: State
    calls: int
    rows: int
    times: tuple[float, ...]
    seeds: Tensor
    path: State | None = None
    source: State | None = None


def drive(loop: Loop, field: Field, flight: Flight, watch: Callable[[Flight], None] | None = None) -> tuple[Flight, int]:
    """Answer a flight's queries until it ends; returns it with the number of network calls.

    Args:
        loop: The loop.
        field: Answers the queries.
        flight: Where to begin: a fresh flight, or one saved half-way.
        watch: Called after each completed interval; may save the flight.
    """
    calls, answer, ask, tell = 0, field.answer, loop.ask, loop.tell
    with torch.no_grad():
        while (query := ask(flight)) is not None:
            if query.grad:
                with torch.enable_grad():
                    x = map_state(lambda v: v.detach().requires_grad_(True), query.x)
                    query = query._replace(x=x)
                    reply: Reply = answer(query)
            else:
                reply = answer(query)
            calls += 1
            flight = tell(flight, query, reply)
            if watch is not None and flight.solver["stage"] in (0, DONE):
                watch(flight)
    return flight, calls


def grid_for(field: Field, steps: int | Sequence[float] | Grid, n: int | None = None) -> tuple[float, ...]:
    """The grid of a number of steps on this field: uniform, with the field's own shift, inside its finite range.

    Args:
        field: Its shift is the one that it was trained with.
        steps: A number of steps, explicit times, or a `Grid` (then `n` gives the steps).
        n: Steps of a `Grid`.

    Raises:
        OptionError: If a Grid comes without n.
        TimeError: For explicit times that are no grid.
    """
    law = field.path.law if isinstance(field.path, AffinePath) else None
    if isinstance(steps, Grid):
        if n is None:
            raise OptionError("A Grid needs the number of steps too.")
        times = steps(n, law)
    elif isinstance(steps, int):
        times = Grid(shift=field.shift)(steps, law)
    else:
        return check_grid(steps)
    low = field.finite[0]
    if times[0] < low:
        times = (low, *(t for t in times if t > low))
    elif times[-1] < low:
        times = (*(t for t in times if t > low), low)
    return times


def conditions(field: Field, n: int, given: dict[str, object]) -> Cond:
    """Conditions as tensors with n rows: numbers are repeated, labels checked against the network's classes.

    Raises:
        ConditionError: For unknown names, wrong row counts, or labels outside 0 .. classes - 1.
    """
    device = next((p.device for p in field.parameters()), torch.device("cpu"))
    cond: Cond = {}
    for name, value in given.items():
        if value is None:
            continue
        v = torch.as_tensor(value, device=device)
        v = v.expand(n) if v.ndim == 0 else v
        if v.shape[0] == 1 and n > 1:
            v = v.expand(n, *v.shape[1:])
        if v.shape[0] != n:
            raise ConditionError(f"{name} has {v.shape[0]} rows for {n} samples; give one value, or one a sample.")
        cond[name] = v
    classes = getattr(field.net, "config", {}).get("classes", 0) if hasattr(field.net, "config") else 0
    if "label" in cond and classes:
        low, high = int(cond["label"].min()), int(cond["label"].max())
        if low < 0 or high > classes:  # the value `classes` is the null label
            raise ConditionError(f"label must lie in 0 .. {classes - 1}, got {low if low < 0 else high}.")
    return field.complete(cond, n)


def solve(
    field: Field,
    x: State,
    times: Sequence[float],
    solver: Solver | str = "heun",
    *,
    cond: Cond | None = None,
    steers: Sequence[Steer] = (),
    seed: int | Sequence[int] | Tensor = 0,
    trace: bool = False,
) -> Solution:
    """Carry a state along the flow over an explicit grid, forwards or backwards.

    Args:
        field: The flow.
        x: State at times[0], rows first.
        times: Strictly monotone times in [0, 1].
        solver: A `Solver`, or the name of one.
        cond: Conditions, rows first.
        steers: Hooks, the outermost first.
        seed: For methods that draw noise: one integer, or one a row.
        trace: Whether to keep the state at every time of the grid (memory grows with the grid).

    Raises:
        NonFiniteError: If the result is not finite; names row, step and time of the first bad value.
        RheosError: For bad arguments, before any network call.
    """
    grid = check_grid(times)
    n = rows(x)
    seeds = row_seeds(seed, n)
    method = named_solver(solver) if isinstance(solver, str) else solver
    loop = Loop(field, method, tuple(steers))
    given = field.complete(cond or {}, n)
    device = next(iter(x.values())).device if isinstance(x, dict) else x.device
    counted = _Counted(field)
    states: list[State] = [x] if trace else []
    watch = _Trace(states) if trace else None
    flight = loop.begin(x, grid, given, seeds.to(device))
    flight, calls = drive(loop, counted, flight, watch)  # type: ignore[arg-type]
    if not bool(is_finite(flight.x).all()):
        _explain(loop, field, loop.begin(x, grid, given, seeds.to(device)))
    path = None
    if trace:
        path = map_state(lambda *parts: torch.stack(parts), *states)
    return Solution(flight.x, calls, counted.rows, grid, seeds, path, x)


class _Counted:
    """A field that counts the rows it is asked."""

    def __init__(self, field: Field) -> None:
        self._answer = field.answer
        self.rows = 0

    def answer(self, q):  # type: ignore[no-untyped-def]
        self.rows += q.x.shape[0] if isinstance(q.x, Tensor) else rows(q.x)
        return self._answer(q)


class _Trace:
    """Collects the state after each interval."""

    def __init__(self, states: list[State]) -> None:
        self.states, self.i = states, 0

    def __call__(self, flight: Flight) -> None:
        if flight.i != self.i:
            self.i = flight.i  # type: ignore[assignment]
            self.states.append(flight.x)


def _explain(loop: Loop, field: Field, flight: Flight) -> None:
    """Walk again, looking at every value, to say where the first bad one came from."""
    with torch.no_grad():
        while (query := loop.ask(flight)) is not None:
            reply = field.answer(query)
            good = is_finite(reply.value)
            flight = loop.tell(flight, query, reply)
            bad = is_finite(flight.x).logical_not()
            if not bool(good.all()) or bool(bad.any()):
                row = int((good.logical_not() if not bool(good.all()) else bad).nonzero()[0])
                what = "the network returned" if not bool(good.all()) else f"{type(loop.solver).__name__} produced"
                raise NonFiniteError(
                    f"In step {flight.i} of {flight.n}, at t = {query.t}, {what} a NaN or an infinity in row {row}. "
                    "Check the field there (its training loss, its conditions), or use a smaller guidance scale.",
                    row=row,
                    t=query.t,
                )
    raise NonFiniteError("The samples hold a NaN or an infinity, which a second walk did not show again.")


def draw(
    field: Field,
    n: int = 16,
    *,
    steps: int | Sequence[float] = 20,
    solver: Solver | str = "heun",
    guidance: float | CFG | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    **options: object,
) -> Tensor:
    """Draw samples.

    Args:
        field: A field; `train.fit` gives it the shape of its data.
        n: How many.
        steps: Number of steps on a uniform grid with the field's shift, or explicit times.
        solver: A name (see `rheos.sample.SOLVERS`) or a `Solver`.
        guidance: Scale of classifier-free guidance, or a `CFG`; 1 or None costs one network call a step.
        seed: One integer for all, or one a row; a row's sample depends on its own seed alone.
        **options: `shape` of one sample where the field has none, `steers`, `source` (start states), `batch` (rows
            at a time), and the field's conditions: one value for all rows, or one a row.

    Returns:
        (n, *shape), on the field's device.

    Raises:
        OptionError: For n < 1 or an unknown shape.
        ConditionError: For unknown or ill-shaped conditions.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> field = GaussianMixtureField(means=[[4.0, 0.0]], stds=[0.1])
        >>> draw(field, 500, steps=50).mean(0).round(decimals=1)
        tensor([4., 0.])
    """
    return draw_solution(field, n, steps=steps, solver=solver, guidance=guidance, seed=seed, **options).x  # type: ignore[return-value]


def draw_solution(
    field: Field,
    n: int = 16,
    *,
    steps: int | Sequence[float] = 20,
    solver: Solver | str = "heun",
    guidance: float | CFG | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    **options: object,
) -> Solution:
    """Like `draw`, returning the seeds, the grid and the count of network calls as well.

    Further options: `trace` keeps the states at every time.
    """
    if n < 1:
        raise OptionError(f"n must be at least 1, got {n}.")
    shape = options.pop("shape", None) or field.shape
    steers = tuple(options.pop("steers", ()))  # type: ignore[arg-type]
    source = options.pop("source", None)
    batch = int(options.pop("batch", n))  # type: ignore[call-overload]
    trace = bool(options.pop("trace", False))
    cond = conditions(field, n, options)
    if guidance is not None and guidance != 1.0:
        if not field.conditions:
            raise OptionError(f"guidance {guidance} needs a conditional field; this one takes no conditions.")
        steers = (guidance if isinstance(guidance, CFG) else CFG(float(guidance)), *steers)
    seeds = row_seeds(seed, n)
    device = next((p.device for p in field.parameters()), torch.device("cpu"))
    if source is None:
        if shape is None:
            raise OptionError("This field does not know the shape of its data. Give it: shape=(3, 32, 32).")
        dtype = torch.float64 if field._dtype == torch.float64 else torch.float32
        source = Draws(seeds.to(device)).normal(torch.empty(n, *shape, dtype=dtype, device=device), "source")  # type: ignore[misc]
    elif rows(source) != n:  # type: ignore[arg-type]
        raise ShapeError(f"source has {rows(source)} rows for n = {n}.")  # type: ignore[arg-type]
    times = grid_for(field, steps)
    parts = []
    was_training = field.training
    field.eval()
    try:
        for k in range(0, n, batch):
            rows_ = slice(k, k + batch)
            x = source[rows_] if isinstance(source, Tensor) else {m: v[rows_] for m, v in source.items()}  # type: ignore[union-attr, attr-defined]
            part = {m: v[rows_] for m, v in cond.items()}
            parts.append(solve(field, x, times, solver, cond=part, steers=steers, seed=seeds[rows_], trace=trace))
    finally:
        field.train(was_training)
    if len(parts) == 1:
        return parts[0]
    path = map_state(lambda *p: torch.cat(p, 1), *[s.path for s in parts]) if trace else None  # type: ignore[arg-type]
    calls = parts[0].calls
    return Solution(concat([s.x for s in parts]), calls, sum(s.rows for s in parts), parts[0].times, seeds, path, source)  # type: ignore[arg-type]
