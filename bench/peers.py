"""The solvers of other libraries, each beside ours that takes the same steps.

A peer is called in its own convention: diffusers wants minus the velocity at noise levels 1 - t, azula the data
estimate at a clock of its own that stops short of both ends, torchdiffeq and flow_matching the velocity. Ours walks the
very times that the peer walks, from the same point to the same end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rheos.core import Solver
from rheos.sample import (
    DDIM,
    DEIS,
    AdamsBashforth,
    BogackiShampine,
    DormandPrince,
    DPMSolver,
    RungeKutta,
    Tableau,
    solver,
)

HEUN3 = Tableau("heun3", 3, ((), (1 / 3,), (0.0, 2 / 3)), (0.25, 0.0, 0.75), (0.0, 1 / 3, 2 / 3))
RK4_38 = Tableau(
    "rk4, 3/8 rule",
    4,
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    (0.0, 1 / 3, 2 / 3, 1.0),
)
"""What torchdiffeq calls rk4."""


class Model(Protocol):
    """A network in the conventions of the peers; t is (B,), in our time.

    Args:
        exact: Whether what it says matters, or only the time that it takes.
    """

    exact: bool

    def velocity(self, x: Tensor, t: Tensor) -> Tensor: ...
    def backward(self, x: Tensor, t: Tensor) -> Tensor: ...
    def data(self, x: Tensor, t: Tensor) -> Tensor: ...


class Walk(NamedTuple):
    """A peer's solver, ready to go.

    Args:
        times: What it steps over, in our time.
        solve: From the state at times[0] to the one at times[-1].
    """

    times: tuple[float, ...]
    solve: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A solver of another library.

    Args:
        name: Library and solver.
        ours: The solver of this library to compare.
        make: Of a model, the rows and a number of steps.
        note: What to know about the comparison.
        noise: Drawn by one of its steps, for stochastic methods.
    """

    name: str
    ours: Solver
    make: Callable[[Model, int, int], Walk]
    note: str = ""
    noise: Callable[[Tensor], Tensor] | None = None


def peers() -> list[Peer]:
    """Of all libraries that are installed."""
    from bench.peers_diffusers import diffusers_peers

    found: list[Peer] = []
    for make in (_torchdiffeq, _flow_matching, _azula, diffusers_peers):
        try:
            found += make()
        except ImportError:
            continue
    return found


def absent() -> list[str]:
    """Why a library is not among the peers, a line each."""
    lines = []
    for name in ("torchdiffeq", "flow_matching", "azula", "diffusers", "k_diffusion.sampling"):
        try:
            import_module(name)
        except ImportError as error:
            lines.append(f"not compared: {name} ({error})")
    return lines


# --- torchdiffeq and flow_matching ------------------------------------------------------------------------------------

FIXED = {
    "euler": ("euler", ""),
    "midpoint": ("midpoint", ""),
    "heun2": ("heun", ""),
    "heun3": (RungeKutta(tableau=HEUN3), "the same tableau"),
    "rk4": (RungeKutta(tableau=RK4_38), "both by the 3/8 rule, which is what torchdiffeq calls rk4"),
}
ADAPTIVE: dict[str, Solver] = {"dopri5": DormandPrince(), "bosh3": BogackiShampine()}
TOLERANCE = 1e-5


def _torchdiffeq() -> list[Peer]:
    from torchdiffeq import odeint

    def make(method: str, model: Model, rows: int, steps: int) -> Walk:
        adaptive = method in ADAPTIVE
        times = (0.0, 1.0) if adaptive else tuple(k / steps for k in range(steps + 1))
        grid = torch.tensor(times, dtype=torch.float64 if model.exact else torch.float32)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return model.velocity(x, t.expand(rows))

        def solve(x: Tensor) -> Tensor:
            with torch.no_grad():
                return odeint(velocity, x, grid, method=method, rtol=TOLERANCE, atol=TOLERANCE)[-1]

        return Walk(times, solve)

    return _named("torchdiffeq", make)


def _flow_matching() -> list[Peer]:
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Wrapped(ModelWrapper):
        def __init__(self, model: Model, rows: int) -> None:
            super().__init__(torch.nn.Identity())
            self.inner, self.rows = model, rows

        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            return self.inner.velocity(x, t.expand(self.rows))

    def make(method: str, model: Model, rows: int, steps: int) -> Walk:
        ode = ODESolver(velocity_model=Wrapped(model, rows))
        adaptive = method in ADAPTIVE
        times = (0.0, 1.0) if adaptive else tuple(k / steps for k in range(steps + 1))

        def solve(x: Tensor) -> Tensor:
            return ode.sample(
                x_init=x,
                step_size=None,
                method=method,
                time_grid=torch.tensor(times, dtype=x.dtype),
                return_intermediates=False,
                rtol=TOLERANCE,
                atol=TOLERANCE,
            )

        return Walk(times, solve)

    return _named("flow_matching", make)


def _named(library: str, make: Callable[[str, Model, int, int], Walk]) -> list[Peer]:
    def of(method: str) -> Callable[[Model, int, int], Walk]:
        return lambda model, rows, steps: make(method, model, rows, steps)

    fixed = [Peer(f"{library} {m}", as_solver(ours), of(m), note) for m, (ours, note) in FIXED.items()]
    note = "every row of ours has steps of its own, all rows of theirs share one and may pass t = 1"
    return fixed + [Peer(f"{library} {m}", ours, of(m), note) for m, ours in ADAPTIVE.items()]


def as_solver(ours: str | Solver) -> Solver:
    return solver(ours) if isinstance(ours, str) else ours


# --- azula ------------------------------------------------------------------------------------------------------------


def _azula() -> list[Peer]:
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import RectifiedSchedule

    class Estimate(Denoiser):
        """azula's path is ours after division by alpha + sigma."""

        def __init__(self, model: Model, rows: int, exact: bool) -> None:
            super().__init__()
            self.inner, self.rows, self.exact, self.schedule = model, rows, exact, RectifiedSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
            if not self.exact:  # timed: nothing but the network
                return DiracPosterior(mean=self.inner.data(x_t, t.expand(self.rows)))
            alpha, sigma = self.schedule(t.double())
            size = alpha + sigma
            return DiracPosterior(mean=self.inner.data(x_t / size, (alpha / size).expand(self.rows)))

    def make(name: str, options: dict[str, Any], model: Model, rows: int, steps: int) -> Walk:
        exact = model.exact
        dtype = torch.float64 if exact else None
        sampler = getattr(sample, name)(Estimate(model, rows, exact), steps=steps, silent=True, dtype=dtype, **options)
        alpha, sigma = (v.double() for v in RectifiedSchedule()(sampler.timesteps))
        size = alpha + sigma
        first, last = float(size[0]), float(size[-1])
        return Walk(tuple((alpha / size).tolist()), lambda x: sampler(x * first) / last)

    def peer(name: str, ours: str | Solver, note: str = "", noise: bool = False, **options: Any) -> Peer:
        text = ", ".join(f"{k}={v}" for k, v in options.items())
        return Peer(
            f"azula {name}" + (f"({text})" if text else ""),
            as_solver(ours),
            lambda model, rows, steps: make(name, options, model, rows, steps),
            note or "over azula's own times, which stop 1e-3 short of both ends",
            torch.randn_like if noise else None,
        )

    return [
        peer("EulerSampler", "euler", "in rho = sigma / alpha, which on its path is Euler"),
        peer("HeunSampler", "heun"),
        peer("DDIMSampler", "ddim"),
        peer("zABSampler", DEIS(order=2), order=2),
        peer("zABSampler", DEIS(order=3), order=3),
        peer("vABSampler", AdamsBashforth(order=2), order=2),
        peer("vABSampler", AdamsBashforth(order=3), order=3),
        peer("zEABSampler", DPMSolver(estimates="noise", variant="heun"), order=2),
        peer("zEABSampler", DPMSolver(estimates="noise", order=3), order=3),
        peer("xEABSampler", DPMSolver(variant="heun"), order=2),
        peer("xEABSampler", DPMSolver(order=3), order=3),
        peer("DDPMSampler", DDIM(eta=1.0), noise=True),
    ]
