"""One sampling loop, many drivers.

`Loop.ask` says what a network must answer, `Loop.tell` takes the reply. A `Flight` is a batch under way: plain
data only, so a local call, a server that merges requests, an engine and a virtual clock drive the same code.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import OptionError, ShapeError, SourceNotGaussianError, TimeError
from rheos.core.field import Field
from rheos.core.paths import AffinePath, Kind, Path, Time
from rheos.core.query import Name, Query, Reply, cut_time
from rheos.core.solver import DONE, Solver, SolverState
from rheos.core.state import State, concat, dtype_of, like, map_state, rows, split, where_rows
from rheos.core.steer import HOOKS, Branch, Steer, View
from rheos.sample.flight import Flight, Times
from rheos.sample.grids import check_grid

__all__ = ["Flight", "Loop"]


class Loop:
    """The loop around one solver and its steers; it holds no trajectory.

    Args:
        field: Answers queries elsewhere; here only its path, its finite range, null values and memory are used.
        solver: The method.
        steers: Hooks, the outermost first.

    Raises:
        OptionError: If the solver cannot run on the field's path, or a steer asks for a field that is not there.
        SourceNotGaussianError: If the solver or a steer needs a score, and the field has none.
    """

    def __init__(self, field: Field, solver: Solver, steers: tuple[Steer, ...] = ()) -> None:
        self.steers = steers
        self._has = {
            hook: [k for k, s in enumerate(steers) if getattr(type(s), hook) is not getattr(Steer, hook)]
            for hook in HOOKS
        }
        _check_steers(field, steers)
        low, high = field.finite
        if self._has["clean"]:  # a changed data estimate gives no velocity at the very end
            high = min(high, 1 - 1e-5)
        self.solver = solver.bind(field.path, (low, high), field.gaussian)
        self.path: Path = field.path
        self._gaussian = field.gaussian
        if self._has["lead"] and not self.solver.leads:
            raise OptionError(
                f"{type(steers[self._has['lead'][0]]).__name__} changes the leading term of a step of one evaluation, "
                f"which {type(solver).__name__} has not. Use a multistep solver such as 'dpm++2m', or 'ddim'."
            )
        self._null = field.null
        self._memory: Callable[[State], State | None] | None = field.memory if field.remembers else None
        self._plain = not steers and self._memory is None
        self._noisy = self.solver.stochastic and not self.solver.kicks  # what kicks has its noise before the step
        self._fast = self._plain and not self.solver.kicks
        self._grad = any(s.differentiates for s in steers)
        # the state at an interval's start: solvers keep it themselves, but for adaptive ones
        self._anchored = bool(self._has["rounds"]) or (bool(self._has["state"]) and self.solver.adaptive)

    # --- a trajectory's beginning -----------------------------------------------------------------------------

    def begin(self, x: State, times: Times, cond: Cond, seed: Tensor) -> Flight:
        """A batch at the start of its grid.

        Args:
            x: State at the first time, rows first.
            times: Increasing or decreasing floats; or float64 (B, N + 1), a grid a row.
            cond: Conditions, rows first.
            seed: int64 (B,), a seed a row.

        Raises:
            ShapeError: If a steer has numbers for another count of rows.
            TimeError: For times that are no grid, or that the method cannot walk.
        """
        b = rows(x)
        if dtype_of(x) in (torch.float16, torch.bfloat16):  # a state is float32, whatever the network computes in
            x = like(x, torch.float32)
        self._check_times(times)
        i: int | Tensor = 0
        n: int | Tensor = len(times) - 1
        if isinstance(times, Tensor):
            i = torch.zeros(b, dtype=torch.int64, device=times.device)
            n = i + (times.shape[1] - 1)
        own = tuple(_row_numbers(s, b) for s in self.steers)
        flight = Flight(times, i, n, 0, self.solver.init(x), own, cond, seed, {}, {})
        flight = self._start(flight, flight.solver)
        if self._has["begin"]:
            view, owns = self._view(flight, x, flight.solver["t"]), [dict(o) for o in own]
            for k in self._has["begin"]:
                view.own = owns[k]
                self.steers[k].begin(view)
            flight = flight._replace(steer=tuple(owns))
        return flight

    def _check_times(self, times: Times) -> None:
        """A grid in [0, 1], or a grid a row that repeats its last time; backwards only for methods that can."""
        if not isinstance(times, Tensor):
            check_grid(times)
            return
        if times.ndim != 2 or times.shape[1] < 2 or not times.is_floating_point():
            raise TimeError(f"Grids a row are float64 (B, N + 1), got {times.dtype} {tuple(times.shape)}.")
        if times.device.type != "cpu":  # looking there would wait for the device
            return
        steps = times.diff(dim=1)
        way = (times[:, -1] - times[:, 0]).sign()
        if bool(((times < 0) | (times > 1)).any()) or bool((steps * way[:, None] < 0).any()) or bool((way == 0).any()):
            raise TimeError("Each row's grid must be monotone in [0, 1], and may repeat its last time only.")
        back = (way < 0).nonzero().flatten()
        if len(back):  # a method that cannot leave the data backwards says so of one clock
            first = times[back[times[back, 0].argmax()]]
            self.solver.start(self.solver.init(torch.zeros(1, 1)), float(first[0]), float(first[1]))

    def _start(self, f: Flight, s: SolverState) -> Flight:
        """Begin interval i, unless all is done."""
        if f.finished:
            return f._replace(solver=s, anchor=None)
        start, end = _interval(f, self.solver.adaptive)
        s = self.solver.start(s, start, end)  # where a repeat of the interval begins: before its noise
        return f._replace(solver=self._kicked(f, s, f.round), anchor=s if self._anchored else None)

    def _kicked(self, f: Flight, s: SolverState, repeat: int) -> SolverState:
        """The interval's noise, for a method that needs it before the first evaluation."""
        if not self.solver.kicks:
            return s
        after = self.solver.kick(s, Draws(f.seed).normal(s["x"], "kick", f.i, repeat))
        if isinstance(f.i, Tensor):  # rows that have ended stay where they are
            after = {**after, "x": where_rows(f.i < f.n, after["x"], s["x"])}
        return after

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
        memory = self._recall(f, branches)
        if len(parts) == 1:
            return Query(parts[0].x, t, span, parts[0].cond, kind, counts, memory, self._grad)
        return Query(
            concat([b.x for b in parts]),
            _repeat(t, counts),
            (_repeat(span[0], counts), _repeat(span[1], counts)),
            {n: torch.cat([b.cond[n] for b in parts]) for n in parts[0].cond},
            kind,
            counts,
            memory,
            self._grad,
        )

    def _recall(self, f: Flight, branches: dict[Name, Branch]) -> State | None:
        """The field's memory of every branch, begun where there is none yet."""
        if self._memory is None:
            return None
        held = [f.memory[n] if n in f.memory else self._memory(b.x) for n, b in branches.items()]
        known = [m for m in held if m is not None]
        return concat(known) if len(known) == len(held) else None

    def tell(self, f: Flight, q: Query, reply: Reply) -> Flight:
        """The batch after a reply.

        Args:
            f: The flight that asked.
            q: What it asked.
            reply: The answer to q.
        """
        if not self._fast or isinstance(f.i, Tensor):
            return self._tell(f, q, reply)
        s, i = f.solver, f.i
        noise = Draws(f.seed).normal(s["x"], "step", i, 0, s["stage"]) if self._noisy else None
        s = self.solver.tell(s, reply.value, noise)
        if s["stage"] == DONE:
            i += 1
            if i < cast(int, f.n):
                times = f.times
                s = self.solver.start(s, times[i], times[i + 1])
        return Flight(f.times, i, f.n, 0, s, f.steer, f.cond, f.seed, f.memory, f.pending)

    def _tell(self, f: Flight, q: Query, reply: Reply) -> Flight:
        solver, before = self.solver, f.solver
        if before["stage"] == 0 and reply.memory is not None:
            sizes = [n for _, n in q.branches]
            names = [name for name, _ in q.branches]
            f = f._replace(pending=dict(zip(names, split(reply.memory, sizes), strict=True)))
        value, f = self._fold(f, q, reply)
        noise = None
        if self._noisy:
            noise = Draws(f.seed).normal(f.x, "step", f.i, f.round, before["stage"])
        lead = None
        if self._has["lead"] and before["stage"] == 0:  # further stages belong to a warm-up
            lead, f = self._lead(f, q, value)
        s = solver.tell(before, value, noise, lead)
        if s["stage"] != DONE:
            return f._replace(solver=s)
        return self._accept(f, s, value)

    # --- hooks -----------------------------------------------------------------------------------------------------

    def _fold(self, f: Flight, q: Query, reply: Reply) -> tuple[State, Flight]:
        """Branch values to one value, through the `velocity` and `clean` hooks."""
        if not (self._has["velocity"] or self._has["clean"]):
            return reply.value, f
        names, sizes = [name for name, _ in q.branches], [n for _, n in q.branches]
        owns = [dict(o) for o in f.steer]
        with torch.set_grad_enabled(q.grad or torch.is_grad_enabled()):
            values = dict(zip(names, split(reply.value, sizes), strict=True))
            xs = dict(zip(names, split(q.x, sizes), strict=True)) if len(names) > 1 else {names[0]: q.x}
            if () in xs:
                x, t = xs[()], cut_time(q.t, sizes)[names.index(())]
            else:  # every branch has a state of its own
                x, t = self.solver.ask(f.solver)[:2]
            value = self._folded(self._view(f, x, t, q), owns, q, values, xs)
        if q.grad:
            value = map_state(Tensor.detach, value)
        return value, f._replace(steer=tuple(owns))

    def _folded(
        self, view: View, owns: list[dict[str, object]], q: Query, values: dict[Name, State], xs: dict[Name, State]
    ) -> State:
        def converted(src: Kind, dst: Kind) -> dict[Name, State]:
            return {n: self.path.convert(v, xs.get(n, view.x), view.t, src, dst) for n, v in values.items()}

        for k in reversed(self._has["velocity"]):
            steer, view.own = self.steers[k], owns[k]
            view.kind = steer.kind or q.kind
            if view.kind != q.kind:
                values = converted(q.kind, view.kind)
            values = steer.velocity(view, values)
            if view.kind != q.kind:
                values = converted(view.kind, q.kind)
        value = values[()]
        if self._has["clean"]:
            x1 = view.convert(value, q.kind, "data")
            for k in reversed(self._has["clean"]):
                view.own = owns[k]
                x1 = self.steers[k].clean(view, x1)
            value = view.convert(x1, "data", q.kind)
        return value

    def _lead(self, f: Flight, q: Query, value: State) -> tuple[State, Flight]:
        """What replaces the value in the step's leading term."""
        x, t = self.solver.ask(f.solver)[:2]
        view, owns = self._view(f, x, t), [dict(o) for o in f.steer]
        view.kind = q.kind
        lead = value
        for k in reversed(self._has["lead"]):
            view.own = owns[k]
            lead = self.steers[k].lead(view, lead)
        return lead, f._replace(steer=tuple(owns))

    def _accept(self, f: Flight, s: SolverState, value: State) -> Flight:
        """An interval is complete: state hooks, repeats, the next interval."""
        start = f.solver["x"] if f.anchor is None else f.anchor["x"]
        alive = f.i < f.n if isinstance(f.i, Tensor) else None
        if alive is not None:  # rows that had ended stay where they were
            s = {**s, "x": where_rows(alive, s["x"], start)}
        rounds = 1
        if self.steers:
            rounds, s, f = self._at_end(f, s, start, value, alive)
        if f.round + 1 < rounds and f.anchor is not None:
            return self._again(f, s, alive)
        memory = f.pending or f.memory
        step = f.i + 1 if not isinstance(f.i, Tensor) else torch.minimum(f.i + 1, cast(Tensor, f.n))
        before, f = f, f._replace(i=step, round=0, memory=memory, pending={})
        f = self._start(f, s)
        return self._end(before, f, s) if self._has["end"] else f

    def _at_end(
        self, f: Flight, s: SolverState, start: State, value: State, alive: Tensor | None
    ) -> tuple[int, SolverState, Flight]:
        """The `rounds` and `state` hooks."""
        view, owns = self._view(f, s["x"], s["end"]), [dict(o) for o in f.steer]
        rounds = 1
        for k in self._has["rounds"]:
            view.own = owns[k]
            rounds = max(rounds, self.steers[k].rounds(view))
        x = s["x"]
        for k in reversed(self._has["state"]):
            view.own = owns[k]
            x = view.x = self.steers[k].state(view, start, x, value)
        if x is not s["x"]:
            x = x if alive is None else where_rows(alive, x, s["x"])
            s = {**self.solver.move(s, x), "stage": s["stage"]}
        return rounds, s, f._replace(steer=tuple(owns))

    def _again(self, f: Flight, s: SolverState, alive: Tensor | None) -> Flight:
        """Noise the state back to the interval's start and walk it once more."""
        if not self._gaussian:
            raise SourceNotGaussianError(
                "Repeated intervals noise the state back, which needs a source N(0, I); this field was declared "
                "gaussian=False. Walk each interval once."
            )
        anchor = cast(SolverState, f.anchor)
        noise = Draws(f.seed).normal(s["x"], "round", f.i, f.round)
        back = self.path.renoise(s["x"], s["end"], anchor["t"], noise)
        if alive is not None:
            back = where_rows(alive, back, s["x"])
        s = self.solver.move(anchor, back, restart=True)  # what was seen before belongs to another trajectory
        s = self._kicked(f, self.solver.start(s, anchor["t"], anchor["end"]), f.round + 1)
        return f._replace(solver=s, round=f.round + 1)

    def _end(self, before: Flight, f: Flight, s: SolverState) -> Flight:
        """The `end` hooks, for the rows that have just reached their end."""
        over = (f.i >= f.n) & (before.i < before.n) if isinstance(f.i, Tensor) else None
        if not (f.finished if over is None else bool(over.any())):
            return f
        view, x = self._view(f, f.x, s["end"]), f.x
        for k in reversed(self._has["end"]):
            view.own = dict(f.steer[k])
            x = view.x = self.steers[k].end(view, x)
        x = x if over is None else where_rows(over, x, f.x)
        return f._replace(solver={**f.solver, "x": x}, anchor=None if f.anchor is None else {**f.anchor, "x": x})

    def _view(self, f: Flight, x: State, t: Time, q: Query | None = None) -> View:
        view = View()
        view.x, view.t, view.span = x, t, (f.solver["t"], f.solver["end"])
        view.i, view.n, view.round, view.cond = f.i, f.n, f.round, f.cond
        view.path, view.null, view.draws, view.kind = self.path, self._null, Draws(f.seed), "velocity"
        view.own = {}
        view.asked, view.sizes = (x, (rows(x),)) if q is None else (q.x, tuple(n for _, n in q.branches))
        return view


def _check_steers(field: Field, steers: tuple[Steer, ...]) -> None:
    routes = getattr(field, "others", {})
    changing = [s for s in steers if getattr(s, "interval", (0.0, 1.0)) not in ((0.0, 1.0), (0, 1))]
    for steer in steers:
        if steer.steady and changing:
            raise OptionError(
                f"{type(steer).__name__} mixes the estimates of neighbouring steps, whose guidance must be equal, but "
                f"{type(changing[0]).__name__} is active in a part of the times only. Leave one of them out."
            )
    for steer in steers:
        missing = [name for name in steer.fields if name not in routes]
        if missing:
            raise OptionError(
                f"{type(steer).__name__} needs a second field called {missing[0]!r}: sample from "
                f"Routed(field, {missing[0]}=other)."
            )
        if steer.gaussian and not isinstance(field.path, AffinePath):
            raise OptionError(f"{type(steer).__name__} needs a score, so an affine path, not {field.path}.")
        if steer.gaussian and not field.gaussian:
            raise SourceNotGaussianError(
                f"{type(steer).__name__} needs a score, so a source N(0, I) independent of the data; this field was "
                "declared gaussian=False."
            )


def _row_numbers(steer: Steer, b: int) -> dict[str, object]:
    """A steer's numbers: plain ones, and tensors with a value a row."""
    numbers: dict[str, object] = {}
    for name, v in steer.numbers.items():
        if isinstance(v, Tensor) and v.ndim:
            if len(v) not in (1, b):
                raise ShapeError(f"{type(steer).__name__} has {name} for {len(v)} rows, the batch has {b}.")
            v = v.expand(b, *v.shape[1:])
        numbers[name] = v
    return numbers


def _interval(f: Flight, adaptive: bool) -> tuple[Time, Time]:
    """The start and the end of interval i.

    Rows that have ended repeat their last interval, which is thrown away; an adaptive solver waits at its end.
    """
    if not isinstance(f.i, Tensor):
        return f.times[f.i], f.times[f.i + 1]
    times = cast(Tensor, f.times)
    last = torch.minimum(f.i, cast(Tensor, f.n) - 1).unsqueeze(1)
    start, end = times.gather(1, last).squeeze(1), times.gather(1, last + 1).squeeze(1)
    return torch.where(f.i < f.n, start, end) if adaptive else start, end


def _repeat(t: Time, counts: tuple[tuple[Name, int], ...]) -> Time:
    """Row clocks for several branches; a shared clock serves all."""
    if isinstance(t, dict):
        return {n: cast(Tensor, _repeat(v, counts)) for n, v in t.items()}
    if isinstance(t, Tensor) and t.ndim:
        if len({n for _, n in counts}) != 1:
            raise OptionError("With one clock a row, all branches need the same rows.")
        return torch.cat([t] * len(counts))
    return t
