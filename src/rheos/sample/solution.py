"""`solve`: carry a given start along the flow; `drive`: the few lines that answer a loop's queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, final, runtime_checkable

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import row_seeds
from rheos.core.errors import ConditionError, NonFiniteError
from rheos.core.field import Field
from rheos.core.query import Query, Reply
from rheos.core.solver import DONE, Solver
from rheos.core.state import State, device_of, is_finite, map_state, rows
from rheos.core.steer import Steer
from rheos.sample.flight import Flight
from rheos.sample.grids import check_grid
from rheos.sample.loop import Loop
from rheos.sample.methods import solver as named_solver

__all__ = ["Answers", "Solution", "answer", "drive", "fly", "solve"]


@final
@dataclass(frozen=True)
class Solution:
    """What a solve returns.

    Args:
        x: Final state, rows first.
        calls: Network calls, of all batches together.
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


@runtime_checkable
class Answers(Protocol):
    """Whatever answers queries: a field, or something that counts, caches or sends them elsewhere."""

    def answer(self, q: Query) -> Reply:
        """The network's value."""


def answer(field: Answers, query: Query) -> tuple[Query, Reply]:
    """The field's reply, and the query as it was asked: with a state that can be differentiated where one must."""
    if not query.grad:
        return query, field.answer(query)
    with torch.enable_grad():
        query = query._replace(x=map_state(lambda v: v.detach().requires_grad_(True), query.x))
        return query, field.answer(query)


def drive(
    loop: Loop, field: Answers, flight: Flight, watch: Callable[[Flight], None] | None = None, grad: bool = False
) -> tuple[Flight, int]:
    """Answer a flight's queries until it ends; returns it with the number of network calls.

    Args:
        loop: The loop.
        field: Answers the queries.
        flight: Where to begin: a fresh flight, or one saved half-way.
        watch: Called after each completed interval; may save the flight.
        grad: Whether to keep the graph through all steps; memory grows with their number.
    """
    calls, reply_to, ask, tell = 0, field.answer, loop.ask, loop.tell
    with torch.set_grad_enabled(grad):
        while (query := ask(flight)) is not None:
            if query.grad:
                query, reply = answer(field, query)
            else:
                reply = reply_to(query)
            calls += 1
            flight = tell(flight, query, reply)
            if watch is not None and flight.solver["stage"] in (0, DONE):
                watch(flight)
    return flight, calls


def solve(
    field: Field,
    x: State,
    times: Sequence[float],
    solver: Solver | str | None = None,
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
        solver: A `Solver`, or the name of one; the field's usual one, "heun" for most, unless given.
        cond: Conditions, rows first.
        steers: Hooks, the outermost first.
        seed: For methods that draw noise: one integer, or one a row.
        trace: Whether to keep the state at every time of the grid (memory grows with the grid).

    Raises:
        NonFiniteError: If the result is not finite; names row, step and time of the first bad value.
        RheosError: For bad arguments, before any network call.
    """
    grid, n = check_grid(times), rows(x)
    seeds, solver = row_seeds(seed, n), field.usual if solver is None else solver
    loop = Loop(field, named_solver(solver) if isinstance(solver, str) else solver, tuple(steers))
    given = field.complete(cond or {}, n)
    for name, value in given.items():
        if len(value) != n:
            raise ConditionError(f"{name} has {len(value)} rows, the state has {n}.")
    flight = loop.begin(x, grid, given, seeds.to(device_of(x)))
    return fly(loop, field, flight, seeds, trace)


def fly(
    loop: Loop, field: Field, begun: Flight, seeds: Tensor, trace: bool, first: int = 0, *, grad: bool = False
) -> Solution:
    """Drive a fresh flight to its end.

    Args:
        loop: The loop that began it.
        field: Answers the queries.
        begun: A flight on one shared clock.
        seeds: The seeds of its rows.
        trace: Whether to keep the state at every time.
        first: The number of its first row, for messages.
        grad: Whether to keep the graph through all steps.

    Raises:
        NonFiniteError: If the result is not finite.
    """
    counted = _Counted(field)
    states: list[State] = [begun.x]
    flight, calls = drive(loop, counted, begun, _Trace(states) if trace else None, grad)
    if not bool(is_finite(flight.x).all()):
        _explain(loop, field, begun, first)
    path = map_state(lambda *parts: torch.stack(parts), *states) if trace else None
    return Solution(flight.x, calls, counted.rows, cast(tuple[float, ...], begun.times), seeds, path, begun.x)


class _Counted:
    """A field that counts the rows it is asked."""

    def __init__(self, field: Field) -> None:
        self._answer = field.answer
        self.rows = 0

    def answer(self, q: Query) -> Reply:
        x = q.x
        self.rows += x.shape[0] if isinstance(x, Tensor) else rows(x)
        return self._answer(q)


class _Trace:
    """Collects the state after each interval."""

    def __init__(self, states: list[State]) -> None:
        self.states, self.i = states, 0

    def __call__(self, flight: Flight) -> None:
        if isinstance(flight.i, int) and flight.i != self.i:  # repeats of an interval are not its end
            self.i = flight.i
            self.states.append(flight.x)


def _explain(loop: Loop, field: Field, flight: Flight, first: int) -> None:
    """Walk again, looking at every value, to say where the first bad one came from."""
    given = is_finite(flight.x)
    if not bool(given.all()):
        row = int((~given).nonzero()[0]) + first
        raise NonFiniteError(f"The source holds a NaN or an infinity in row {row}.", row=row)
    with torch.no_grad():
        while (query := loop.ask(flight)) is not None:
            query, reply = answer(field, query)
            step, good = flight.i, is_finite(reply.value)
            flight = loop.tell(flight, query, reply)
            bad = is_finite(flight.x).logical_not()
            from_network = not bool(good.all())
            if from_network or bool(bad.any()):
                row = int((good.logical_not() if from_network else bad).nonzero()[0]) % rows(flight.x) + first
                name = type(loop.solver).__name__
                what = "the network returned" if from_network else f"{name} produced"
                raise NonFiniteError(
                    f"In step {cast(int, step) + 1} of {flight.n}, at t = {query.t}, {what} a NaN or an infinity in "
                    f"row {row}. Check the field there, or use a smaller guidance scale; the solver is {name}.",
                    row=row,
                    t=query.t,
                )
    raise NonFiniteError("The samples hold a NaN or an infinity, which a second walk did not show again.")
