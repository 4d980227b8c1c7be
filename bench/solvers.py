"""Every solver with a fixed step: what it costs around the network, and its error, beside the peers that have it."""

from collections.abc import Callable
from dataclasses import fields, replace
from statistics import median

import torch
from torch import Tensor, nn

from bench.harness import Ratio, Timing, in_turn
from bench.peers import TOLERANCE, Peer, peers
from rheos.core import Field, GaussianMixtureField, Query, Solver
from rheos.core.draws import Draws, row_seeds
from rheos.nets import MLP
from rheos.sample import RK4, SOLVERS, RungeKutta, solve, solver
from rheos.sample.multistep import Multistep

STEPS, ROWS, REPEATS = 40, 64, 31
SINGLE, MULTI = 30.0, 60.0
"""Budgets, µs a step at batch 64 on one shared clock, beyond drawing noise."""
CALLS = (12, 24, 48)
"""Network calls at which errors are compared."""
LIKE = 1.02
"""An error that is larger by less than this factor counts as equal: diffusers computes in float32."""


# --- what a step costs ----------------------------------------------------------------------------------------------


class Bare:
    """A network whose output is taken for whatever is asked: what it says does not matter for time."""

    exact = False

    def __init__(self, net: nn.Module) -> None:
        self.velocity = self.backward = self.data = net


def overhead() -> list[Ratio]:
    """µs around each call of a 3 x 64 MLP, against the budget; and the ratio of a step's to each peer's."""
    torch.set_num_threads(1)
    net = MLP(2, hidden=64, depth=3).eval()
    field, x = Field(net, shape=(2,)).eval(), torch.randn(ROWS, 2)
    grid = tuple(k / STEPS for k in range(STEPS + 1))
    rows = [_budget(name, solver(name), net, field, x, grid) for name in SOLVERS if not solver(name).adaptive]
    return rows + [_beside(peer, net, field, x) for peer in peers()]


def _budget(name: str, method: Solver, net: nn.Module, field: Field, x: Tensor, grid: tuple[float, ...]) -> Ratio:
    calls = solve(field, x, grid, method).calls
    draw = _keyed(len(x)) if method.stochastic else None
    functions = {"bare": _bare(net, x, calls, draw), "rheos": lambda: solve(field, x, grid, method)}
    times = in_turn(functions, REPEATS, 5)
    cost = _cost(times, "rheos", "bare", STEPS)
    what = "calls and draws" if draw else "calls"
    detail = (
        f"{calls / STEPS:.3g} calls a step, {cost:.1f} µs a step; bare {what} "
        f"{times['bare'].median / STEPS * 1e6:.1f} µs a step, {_drift(times)}"
    )
    target = MULTI if isinstance(method, Multistep) else SINGLE
    return Ratio(f"overhead a network call, {name}", "budget", cost * STEPS / calls, "<=", target, "µs", detail)


def _beside(peer: Peer, net: nn.Module, field: Field, x: Tensor) -> Ratio:
    counted = _Counted(Bare(net))
    peer.make(counted, ROWS, STEPS).solve(x)
    walk = peer.make(Bare(net), ROWS, STEPS)
    ours = solve(field, x, walk.times, peer.ours)
    functions: dict[str, Callable[[], object]] = {
        "bare": _bare(net, x, ours.calls, _keyed(len(x)) if peer.noise else None),
        "rheos": lambda: solve(field, x, walk.times, peer.ours),
        "bare peer": _bare(net, x, counted.calls, None if peer.noise is None else lambda x, _, f=peer.noise: f(x)),
        "peer": lambda: walk.solve(x),
    }
    times = in_turn(functions, REPEATS, 5)
    # an adaptive method takes the steps it likes: per call
    units = (ours.calls, counted.calls) if peer.ours.adaptive else (len(walk.times) - 1,) * 2
    mine, theirs = _cost(times, "rheos", "bare", units[0]), _cost(times, "peer", "bare peer", units[1])
    unit = "call" if peer.ours.adaptive else "step"
    detail = f"µs a {unit}: rheos {mine:.1f}, peer {theirs:.1f}; {_about(peer)}; {_drift(times)}"
    return Ratio(f"overhead, {_name(peer.ours)}", peer.name, mine / theirs, "<=", 1.0, detail=detail)


def _cost(times: dict[str, Timing], name: str, bare: str, steps: int) -> float:
    """µs a step beyond the bare calls: the median of differences within a round."""
    return median(a - b for a, b in zip(times[name].seconds, times[bare].seconds, strict=True)) / steps * 1e6


def _bare(
    net: nn.Module, x: Tensor, calls: int, draw: Callable[[Tensor, int], Tensor] | None = None
) -> Callable[[], None]:
    """The calls with a ready clock, and a draw a step among them, for it drives the network out of the cache."""
    clock, every = torch.full((len(x),), 0.5), -(-calls // STEPS)

    def bare() -> None:
        with torch.no_grad():
            for k in range(calls):
                net(x, clock)
                if draw is not None and k % every == 0:
                    draw(x, k)

    return bare


def _keyed(rows: int) -> Callable[[Tensor, int], Tensor]:
    """As the loop draws."""
    seeds = row_seeds(0, rows)
    return lambda x, k: Draws(seeds).normal(x, "step", k, 0, 0)  # type: ignore[return-value]


def _drift(times: dict[str, Timing]) -> str:
    return f"quartiles of the bare calls ± {50 * times['bare'].spread:.0f} %"


# --- how far it lands -----------------------------------------------------------------------------------------------


class Exact:
    """The exact flow in the conventions of the peers, in float64 whatever comes."""

    exact = True

    def __init__(self, field: Field) -> None:
        self.field = field

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self._ask(x, t, "velocity")

    def backward(self, x: Tensor, t: Tensor) -> Tensor:
        return -self._ask(x, t, "velocity")

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        return self._ask(x, t, "data")

    def _ask(self, x: Tensor, t: Tensor, kind: str) -> Tensor:
        t = t.double()
        return self.field.answer(Query(x, t, (t, t), {}, kind)).value  # type: ignore[arg-type, return-value]


class _Counted:
    """Any model, with its calls counted."""

    def __init__(self, model: Bare | Exact) -> None:
        self.model, self.exact, self.calls = model, model.exact, 0

    def _through(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return getattr(self.model, name)(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self._through("velocity", x, t)

    def backward(self, x: Tensor, t: Tensor) -> Tensor:
        return self._through("backward", x, t)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        return self._through("data", x, t)


def accuracy() -> list[Ratio]:
    """RMSE of the end point on the exact flow of a mixture, beside each peer at equal network calls."""
    torch.set_num_threads(1)
    truth = Truth()
    return [
        _adaptive(peer, truth) if peer.ours.adaptive else _error(peer, truth)
        for peer in peers()
        if not peer.ours.stochastic
    ]


class Truth:
    """An exact flow, where it starts, and where it really leads."""

    def __init__(self) -> None:
        means = [[1.5, -0.5], [-1.0, 1.0], [0.5, 1.5]]
        self.field = GaussianMixtureField(means, [0.5, 0.3, 0.4], [0.5, 0.3, 0.2])
        self.x = torch.randn(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self._ends: dict[tuple[float, float], Tensor] = {}

    def error(self, end: Tensor, times: tuple[float, ...]) -> float:
        span = (times[0], times[-1])
        if span not in self._ends:  # RK4 with 1000 steps is off by 1e-11
            grid = [span[0] + (span[1] - span[0]) * k / 1000 for k in range(1000)] + [span[1]]
            self._ends[span] = solve(self.field, self.x, grid, RungeKutta(tableau=RK4)).x
        return float((end.double() - self._ends[span]).square().mean().sqrt())


def _error(peer: Peer, truth: Truth) -> Ratio:
    worst, parts = 0.0, []
    for calls in CALLS:
        counted = _Counted(Exact(truth.field))
        walk = peer.make(counted, len(truth.x), max(1, calls // peer.ours.evaluations))
        theirs = truth.error(walk.solve(truth.x), walk.times)
        ours = solve(truth.field, truth.x, walk.times, peer.ours)
        mine = truth.error(ours.x, walk.times)
        ratio = mine / theirs if theirs == theirs else 0.0  # NaN: it gives nothing
        worst = max(worst, ratio if ours.calls <= counted.calls else float("inf"))
        parts.append(f"{ours.calls} against {counted.calls} calls: {mine:.3g} and {theirs:.3g}")
    detail = f"{'; '.join(parts)}; {_about(peer)}"
    return Ratio(f"error, {_name(peer.ours)}, worst of {len(CALLS)}", peer.name, worst, "<=", LIKE, detail=detail)


def _adaptive(peer: Peer, truth: Truth) -> Ratio:
    """The peer at its tolerance, and the calls that ours needs for an error no larger."""
    counted = _Counted(Exact(truth.field))
    walk = peer.make(counted, len(truth.x), 1)
    theirs = truth.error(walk.solve(truth.x), walk.times)
    for k in range(16, 65):
        tolerance = 10 ** (-k / 8)
        method = replace(peer.ours, rtol=tolerance, atol=tolerance)  # type: ignore[call-arg]
        ours = solve(truth.field, truth.x, walk.times, method)
        mine = truth.error(ours.x, walk.times)
        if mine <= theirs:
            break
    detail = (
        f"{ours.calls} calls to {mine:.3g} at tolerance {tolerance:.2g}, the peer {counted.calls} to {theirs:.3g} at "
        f"{TOLERANCE:g}; {len(truth.x)} rows; {_about(peer)}"
    )
    return Ratio(
        f"calls for its error, {_name(peer.ours)}", peer.name, ours.calls / counted.calls, "<=", 1.0, detail=detail
    )


def _about(peer: Peer) -> str:
    return peer.note or "over the same times"


def _name(method: Solver) -> str:
    """Our name of a method, or what it is made of."""
    for name in SOLVERS:
        if solver(name) == method:
            return name
    if isinstance(method, RungeKutta):
        return method.tableau.name
    plain = type(method)()
    changed = [f.name for f in fields(method) if f.repr and getattr(method, f.name) != getattr(plain, f.name)]
    return f"{type(method).__name__}({', '.join(f'{n}={getattr(method, n)!r}' for n in changed)})"
