"""One sampling loop, many drivers.

`Loop.ask` says what a network must answer, `Loop.tell` takes the reply. A `Flight` is a batch under way: plain
data only, so a local call, a server that merges requests, an engine and a virtual clock drive the same code.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field, Name, Query, Reply
from rheos.core.paths import Path, Time
from rheos.core.solver import DONE, Solver, SolverState
from rheos.core.state import State, concat, device_of, rows, split, where_rows
from rheos.core.steer import HOOKS, Branch, Steer, View

__all__ = ["Flight", "Loop"]

Times = tuple[float, ...] | Tensor


class Flight(NamedTuple):
    """A batch of samples under way.

    Args:
        times: The grid: floats on one shared clock, or float64 (B, N + 1), a row's own (repeating its last).
        i: The interval: an integer, or int64 (B,).
        n: The number of intervals, likewise.
        round: Which repeat of the interval.
        solver: The solver's state.
        steer: Each steer's numbers and memory.
        cond: Conditions, rows first.
        seed: int64 (B,), a seed a row.
        memory: The field's memory by branch.
        pending: Memory that is committed when the interval is accepted.
        anchor: The solver's state at the start of the interval, kept when intervals repeat.
    """

    times: Times
    i: int | Tensor
    n: int | Tensor
    round: int
    solver: SolverState
    steer: tuple[dict[str, Any], ...]
    cond: Cond
    seed: Tensor
    memory: dict[Name, State]
    pending: dict[Name, State]
    anchor: SolverState | None = None

    @property
    def x(self) -> State:
        """The state, rows first."""
        return self.solver["x"]  # type: ignore[no-any-return]

    @property
    def finished(self) -> bool:
        """Whether every row has reached its end."""
        return self.i >= self.n if isinstance(self.i, int) else bool((self.i >= self.n).all())


class Loop:
    """The loop around one solver and its steers; it holds no trajectory.

    Args:
        field: Answers queries elsewhere; here only its path, its finite range, null values and memory are used.
        solver: The method.
        steers: Hooks, the outermost first.

    Raises:
        OptionError: If the solver cannot run on the field's path.
    """

    def __init__(self, field: Field, solver: Solver, steers: tuple[Steer, ...] = ()) -> None:
        self.steers = steers
        self._has = {
            hook: [k for k, s in enumerate(steers) if getattr(type(s), hook) is not getattr(Steer, hook)]
            for hook in HOOKS
        }
        low, high = field.finite
        if self._has["clean"]:  # a changed data estimate gives no velocity at the very end
            high = min(high, 1 - 1e-5)
        self.solver = solver.bind(field.path, (low, high), field.gaussian)
        self.path: Path = field.path
        self._null = field.null
        self._memory = field.memory if type(field).memory is not Field.memory else None
        self._plain = not steers and self._memory is None
        self._grad = any(s.branching for s in steers)

    # --- a trajectory's beginning -----------------------------------------------------------------------------

    def begin(self, x: State, times: Times, cond: Cond, seed: Tensor) -> Flight:
        """A batch at the start of its grid."""
        n = (len(times) if isinstance(times, tuple) else times.shape[1]) - 1
        shared = isinstance(times, tuple)
        index = torch.zeros(rows(x), dtype=torch.int64, device=device_of(x))
        own = tuple(dict(s.numbers) for s in self.steers)
        flight = Flight(
            times,
            0 if shared else index,
            n if shared else index + n,
            0,
            self.solver.init(x),
            own,
            cond,
            seed,
            {},
            {},
        )
        flight = self._start(flight, flight.solver)
        if self._has["begin"]:
            view, owns = self._view(flight, x, flight.solver["t"]), [dict(o) for o in own]
            for k in self._has["begin"]:
                view.own = owns[k]
                self.steers[k].begin(view)
            flight = flight._replace(steer=tuple(owns))
        return flight

    def _start(self, f: Flight, s: SolverState) -> Flight:
        """Begin interval i, unless all is done."""
        if f.finished:
            return f._replace(solver=s, anchor=None)
        start, end = _interval(f)
        s = self.solver.start(s, start, end)
        return f._replace(solver=s, anchor=s if self._has["rounds"] else None)

    # --- one evaluation ------------------------------------------------------------------------------------------

    def ask(self, f: Flight) -> Query | None:
        """What the network must answer next, or None at the end."""
        s = f.solver
        if s["stage"] == DONE:
            return None
        x, t, span, kind = self.solver.ask(s)
        if self._plain:
            return Query(x, t, span, f.cond, kind)
        branches: dict[Name, Branch] = {(): Branch(x, f.cond)}
        if self._has["branches"]:
            view = self._view(f, x, t)
            for k in self._has["branches"]:
                view.own = dict(f.steer[k])
                branches = self.steers[k].branches(view, branches)
        counts = tuple((name, rows(b.x)) for name, b in branches.items())
        parts = list(branches.values())
        memory = None
        if self._memory is not None:
            held = [f.memory.get(n, self._memory(b.x)) for n, b in branches.items()]
            memory = None if held[0] is None else concat(held)  # type: ignore[arg-type]
        if len(parts) == 1:
            return Query(parts[0].x, t, span, parts[0].cond, kind, counts, memory, self._grad)
        many = len(parts)
        return Query(
            concat([b.x for b in parts]),
            _repeat(t, many, counts),
            (_repeat(span[0], many, counts), _repeat(span[1], many, counts)),
            {n: torch.cat([b.cond[n] for b in parts]) for n in parts[0].cond},
            kind,
            counts,
            memory,
            self._grad,
        )

    def tell(self, f: Flight, q: Query, reply: Reply) -> Flight:
        """The batch after a reply."""
        solver, s = self.solver, f.solver
        if self._plain and not solver.stochastic and isinstance(f.i, int):
            s = solver.tell(s, reply.value)
            if s["stage"] != DONE:
                return Flight(f.times, f.i, f.n, 0, s, f.steer, f.cond, f.seed, f.memory, f.pending)
            i = f.i + 1
            if i < f.n:
                s = solver.start(s, f.times[i], f.times[i + 1])  # type: ignore[arg-type]
            return Flight(f.times, i, f.n, 0, s, f.steer, f.cond, f.seed, f.memory, f.pending)
        return self._tell(f, q, reply)

    def _tell(self, f: Flight, q: Query, reply: Reply) -> Flight:
        solver, before = self.solver, f.solver
        if before["stage"] == 0 and reply.memory is not None:
            sizes = [n for _, n in q.branches]
            names = [name for name, _ in q.branches]
            f = f._replace(pending=dict(zip(names, split(reply.memory, sizes), strict=True)))
        value, f = self._fold(f, q, reply)
        noise = None
        if solver.stochastic:
            noise = Draws(f.seed).normal(f.x, "step", f.i, f.round, before["stage"])
        s = solver.tell(before, value, noise)
        if s["stage"] != DONE:
            return f._replace(solver=s)
        return self._accept(f, s, value)

    def _fold(self, f: Flight, q: Query, reply: Reply) -> tuple[State, Flight]:
        """Branch values to one value, through the `velocity` and `clean` hooks."""
        if not self.steers:
            return reply.value, f
        values: dict[Name, State]
        if len(q.branches) > 1:
            pieces = split(reply.value, [n for _, n in q.branches])
            values = {name: v for (name, _), v in zip(q.branches, pieces, strict=True)}
            x = split(q.x, [n for _, n in q.branches])[0]
        else:
            values, x = {q.branches[0][0]: reply.value}, q.x
        t = self.solver.ask(f.solver).t
        view, owns = self._view(f, x, t), [dict(o) for o in f.steer]
        for k in reversed(self._has["velocity"]):
            steer, view.own = self.steers[k], owns[k]
            want = steer.kind or q.kind
            view.kind = want
            if want != q.kind:
                values = {n: view.convert(v, q.kind, want) for n, v in values.items()}
            values = steer.velocity(view, values)
            if want != q.kind:
                values = {n: view.convert(v, want, q.kind) for n, v in values.items()}
        value = values[()]
        if self._has["clean"]:
            x1 = view.convert(value, q.kind, "data")
            for k in reversed(self._has["clean"]):
                view.own = owns[k]
                x1 = self.steers[k].clean(view, x1)
            value = view.convert(x1, "data", q.kind)
        return value, f._replace(steer=tuple(owns))

    def _accept(self, f: Flight, s: SolverState, value: State) -> Flight:
        """An interval is complete: state hooks, repeats, the next interval."""
        start = f.solver["x"] if f.anchor is None else f.anchor["x"]
        if isinstance(f.i, Tensor):  # rows that had ended stay where they were
            s = {**s, "x": where_rows(f.i < f.n, s["x"], start)}
        rounds = 1
        if self.steers:
            view, owns = self._view(f, s["x"], s["end"]), [dict(o) for o in f.steer]
            for k in self._has["rounds"]:
                view.own = owns[k]
                rounds = max(rounds, self.steers[k].rounds(view))
            x = s["x"]
            for k in reversed(self._has["state"]):
                view.own = owns[k]
                x = self.steers[k].state(view, start, x, value)
            if x is not s["x"]:
                s = solver_move(self.solver, s, x)
            f = f._replace(steer=tuple(owns))
        if f.round + 1 < rounds and f.anchor is not None:
            noise = Draws(f.seed).normal(s["x"], "round", f.i, f.round)
            back = self.path.renoise(s["x"], s["end"], s["t"], noise)  # type: ignore[attr-defined]
            return f._replace(solver={**f.anchor, "x": back}, round=f.round + 1)
        memory = f.pending or f.memory
        step = f.i + 1 if isinstance(f.i, int) else torch.minimum(f.i + 1, f.n)  # type: ignore[type-var, arg-type]
        f = f._replace(i=step, round=0, memory=memory, pending={})
        f = self._start(f, s)
        if f.finished and self._has["end"]:
            view, x = self._view(f, f.x, s["end"]), f.x
            for k in reversed(self._has["end"]):
                view.own = dict(f.steer[k])
                x = self.steers[k].end(view, x)
            f = f._replace(solver={**f.solver, "x": x})
        return f

    def _view(self, f: Flight, x: State, t: Time) -> View:
        view = View()
        view.x, view.t, view.span = x, t, (f.solver["t"], f.solver["end"])
        view.i, view.n, view.round, view.cond = f.i, f.n, f.round, f.cond
        view.path, view.null, view.draws, view.kind = self.path, self._null, Draws(f.seed), "velocity"
        view.own = {}
        return view


def solver_move(solver: Solver, s: SolverState, x: State) -> SolverState:
    """Move a state between intervals, keeping it complete."""
    return {**solver.move(s, x), "stage": s["stage"]}


def _interval(f: Flight) -> tuple[Time, Time]:
    """The start and the end of interval i; rows that have ended repeat their last interval."""
    if isinstance(f.i, int):
        return f.times[f.i], f.times[f.i + 1]  # type: ignore[return-value]
    last = torch.minimum(f.i, f.n - 1).unsqueeze(1)  # type: ignore[operator]
    return f.times.gather(1, last).squeeze(1), f.times.gather(1, last + 1).squeeze(1)  # type: ignore[union-attr]


def _repeat(t: Time, many: int, counts: tuple[tuple[Name, int], ...]) -> Time:
    """Row clocks for several branches; a shared clock serves all."""
    if isinstance(t, Tensor) and t.ndim:
        if len({n for _, n in counts}) != 1:
            raise OptionError("With one clock a row, all branches need the same rows.")
        return torch.cat([t] * many)
    if isinstance(t, dict):
        return {n: _repeat(v, many, counts) for n, v in t.items()}  # type: ignore[misc]
    return t
