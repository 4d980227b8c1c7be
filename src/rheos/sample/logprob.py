r"""The log-density of each step of a stochastic trajectory, as reinforcement learning needs it.

A stochastic step is a Gaussian jump $x' \sim N(\mu_\theta(x), s^2 I)$. Policy gradients walk a trajectory that was
drawn before once more, with the present parameters, and ask how likely each of its steps is now.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.paths import Path, Time
from rheos.core.solver import DONE, Ask, Jump, Solver, SolverState
from rheos.core.state import State, map_state, rows
from rheos.core.steer import Steer
from rheos.sample.grids import check_grid
from rheos.sample.loop import Loop
from rheos.sample.methods import solver as named_solver
from rheos.sample.solution import drive

__all__ = ["step_logprob"]


@final
@dataclass(frozen=True, kw_only=True)
class _Replay(Solver):
    """A stochastic solver that ends each step where an earlier run did, and notes how likely that was."""

    inner: Solver
    reached: tuple[State, ...]

    def bind(self, path: Path, finite: tuple[float, float], gaussian: bool = True) -> "_Replay":
        return replace(self, inner=self.inner.bind(path, finite, gaussian), path=path, finite=finite)

    @property
    def leads(self) -> bool:  # type: ignore[override]
        return self.inner.leads

    def init(self, x: State) -> SolverState:
        return {**self.inner.init(x), "logp": ()}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        return {**self.inner.start(s, t, end), "logp": s["logp"]}

    def ask(self, s: SolverState) -> Ask:
        return self.inner.ask(s)

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        reached = self.reached[len(s["logp"])]
        after = self.inner.tell(s, value, map_state(torch.zeros_like, reached), lead)
        if after["stage"] != DONE:
            return {**after, "logp": s["logp"]}
        step = Jump(after["x"], self.inner.jump(s, value).std)
        return {**after, "x": reached, "logp": (*s["logp"], step.logprob(reached))}


def step_logprob(
    field: Field,
    path: State,
    times: Sequence[float],
    solver: Solver | str = "sde",
    *,
    cond: Cond | None = None,
    steers: Sequence[Steer] = (),
) -> Tensor:
    r"""$\ln N(x_{i+1};\, \mu(x_i), s_i^2 I)$ for each step of a trajectory; differentiable in the field's parameters.

    Args:
        field: The flow, with the parameters of now.
        path: The states at the grid's times, (N + 1, B, ...), which `solve(..., trace=True)` keeps.
        times: The grid, N + 1 times.
        solver: The stochastic solver that drew the trajectory: "sde", "ddpm", `DDIM(eta=...)`, "sde-dpm++2m", ...
        cond: Conditions, rows first.
        steers: Hooks of the run, such as guidance.

    Returns:
        (N, B), zero where a step has no noise (the last one, as a rule): it has no density.

    Raises:
        OptionError: For a solver without Gaussian steps.
        OptionError: For steers that move states or repeat intervals: what they did is in the path already.
        ShapeError: If the path has not one state a time.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import draw_solution
        >>> field = GaussianMixtureField(means=[[4.0, 0.0]], stds=[0.1])
        >>> drawn = draw_solution(field, 3, steps=5, solver="sde", trace=True)
        >>> step_logprob(field, drawn.path, drawn.times, "sde").shape
        torch.Size([5, 3])

    Reference: Flow-GRPO, Liu et al. (2025), https://arxiv.org/abs/2505.05470, for flows.
    """
    grid, method = check_grid(times), named_solver(solver) if isinstance(solver, str) else solver
    if not method.stochastic or method.kicks:
        raise OptionError(
            f"{type(method).__name__} has no Gaussian step, so no density. Use a solver such as 'sde' or 'ddpm'."
        )
    for steer in steers:
        moved = [h for h in ("rounds", "state", "end") if getattr(type(steer), h) is not getattr(Steer, h)]
        if moved:
            raise OptionError(
                f"{type(steer).__name__} changes states by its hook {moved[0]!r}, so a step is no Gaussian jump. "
                "Leave it out."
            )
    states = _states(path, len(grid))
    loop = Loop(field, _Replay(inner=method, reached=states[1:]), tuple(steers))
    given = field.complete(cond or {}, rows(states[0]))
    seeds = torch.zeros(rows(states[0]), dtype=torch.int64, device=field.device)
    flight, _ = drive(loop, field, loop.begin(states[0], grid, given, seeds), grad=torch.is_grad_enabled())
    return torch.stack(cast(Any, flight.solver["logp"]))


def _states(path: State, n: int) -> tuple[State, ...]:
    lengths = {len(v) for v in (path.values() if isinstance(path, dict) else [path])}
    if lengths != {n}:
        raise ShapeError(f"path has {sorted(lengths)} states for {n} times; keep it with trace=True.")
    return tuple(map_state(lambda v, k=k: v[k].detach(), path) for k in range(n))
