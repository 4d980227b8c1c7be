r"""Inversion: from data to the latents that a sampler would make it of.

Walking the reversed grid with the same solver comes back up to the solver's order. Exactly undoing explicit steps
means solving $x' = F(x)$ for x, where F is the forward step: the fixed-point iteration $x \leftarrow x + x' - F(x)$
contracts where |h| times the Lipschitz constant of v is below one. For Euler that is the implicit Euler step of the
reversed grid.

Reference: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.7-8; Effective Real Image
    Editing with Accelerated Iterative Diffusion Inversion, Pan et al. (2023), eq. 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import Path, Time
from rheos.core.solver import DONE, Ask, Solver, SolverState, elapsed
from rheos.core.state import State, add, dtype_of, lerp, map_state, rows, tensors
from rheos.core.steer import Steer
from rheos.data.ranges import check_range
from rheos.sample.draw import conditions, grid_for
from rheos.sample.grids import Grid, check_grid
from rheos.sample.guidance import CFG
from rheos.sample.methods import solver as named_solver
from rheos.sample.reversible import clipped
from rheos.sample.rungekutta import Euler, between
from rheos.sample.solution import Solution, solve

__all__ = ["FixedPoint", "ImplicitEuler", "ImplicitMidpoint", "invert"]

METHODS = ("reversed", "fixed-point")


@dataclass(frozen=True, kw_only=True)
class _Implicit(Solver):
    r"""$x' = x + h\, v((1 - \theta) x + \theta x',\; t + \theta h)$ by fixed-point iteration.

    Args:
        iterations: Evaluations a step, at least 1; each lowers what is left by the factor theta |h| L, where L is the
            Lipschitz constant of v.

    Raises:
        OptionError: For iterations < 1.
    """

    iterations: int = 10

    theta: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, got {self.iterations}.")

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Network calls a step."""
        return self.iterations

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval; the first guess of its end is its start."""
        return {**s, "t": t, "end": end, "stage": 0, "guess": s["x"]}

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the point of evaluation of the present guess."""
        t, end = s["t"], s["end"]
        at = end if self.theta == 1.0 else between(t, self.theta, elapsed(t, end))
        x = s["guess"] if self.theta == 1.0 else lerp(s["x"], s["guess"], self.theta)
        return Ask(x, clipped(at, self.finite), (t, end), "velocity")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """A better guess; after the last iteration, move there."""
        guess = add(s["x"], elapsed(s["t"], s["end"]), value)
        if s["stage"] + 1 < self.iterations:
            return {**s, "guess": guess, "stage": s["stage"] + 1}
        return {**s, "x": guess, "guess": guess, "stage": DONE}


@final
@dataclass(frozen=True, kw_only=True)
class ImplicitEuler(_Implicit):
    r"""$x' = x + h\, v(x', t')$: on the reversed grid the inverse of explicit Euler.

    Args:
        iterations: Evaluations a step.

    Example:
        >>> ImplicitEuler(iterations=6).evaluations
        6
    """


@final
@dataclass(frozen=True, kw_only=True)
class ImplicitMidpoint(_Implicit):
    r"""$x' = x + h\, v(\frac{x + x'}{2}, t + \frac h2)$: symmetric, on the reversed grid its own inverse.

    Args:
        iterations: Evaluations a step.
    """

    order = 2
    theta = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class FixedPoint(Solver):
    r"""The inverse of the steps of an explicit method, for the reversed grid: $x \leftarrow x + x' - F(x)$.

    Args:
        forward: A deterministic method that keeps nothing from one interval to the next, such as euler, midpoint,
            heun, rk4 or ddim.
        iterations: Forward steps an interval, at least 1.

    Raises:
        OptionError: For a method that cannot be inverted step by step, or iterations < 1.

    Example:
        >>> from rheos.sample import solver
        >>> FixedPoint(forward=solver("midpoint"), iterations=5).evaluations
        10
    """

    forward: Solver = field(default_factory=Euler)
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, got {self.iterations}.")
        f, probe = self.forward, torch.zeros(1)
        history = f.init(probe).keys() - Solver.init(f, probe).keys()
        if f.stochastic or f.adaptive or history or isinstance(f, _Implicit | FixedPoint):
            raise OptionError(
                f"{type(f).__name__} {'adds noise' if f.stochastic else 'is no explicit one-step method'}, so its "
                "steps cannot be undone one by one. Use euler, midpoint, heun or rk4, or method='reversed'."
            )

    def bind(self, path: Path, finite: tuple[float, float], gaussian: bool = True) -> Solver:
        """This method, and the one it undoes, on a given path."""
        bound = cast(FixedPoint, super().bind(path, finite, gaussian))
        return replace(bound, forward=self.forward.bind(path, finite, gaussian))

    @property
    def schedule_free(self) -> bool:  # type: ignore[override]
        """Whether the method needs velocities only."""
        return self.forward.schedule_free

    @property
    def order(self) -> int:  # type: ignore[override]
        """The method's own."""
        return self.forward.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Network calls a step."""
        return self.iterations * self.forward.evaluations

    def _begun(self, x: State, t: Time, end: Time) -> SolverState:
        """The forward method before its step from x over the same interval the other way."""
        return self.forward.start(self.forward.init(x), end, t)

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval; the first guess of its end is its start."""
        return {**s, "t": t, "end": end, "stage": 0, "guess": s["x"], "step": self._begun(s["x"], t, end)}

    def ask(self, s: SolverState) -> Ask:
        """What the forward step from the present guess needs."""
        return self.forward.ask(s["step"])

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Go on with the forward step; at its end improve the guess, after the last iteration move there."""
        step = self.forward.tell(s["step"], value, lead=lead)
        if step["stage"] != DONE:
            return {**s, "step": step}
        guess = map_state(lambda g, x, f: g + (x - f), s["guess"], s["x"], step["x"])
        if s["stage"] + 1 < self.iterations:
            return {**s, "guess": guess, "stage": s["stage"] + 1, "step": self._begun(guess, s["t"], s["end"])}
        return {**s, "x": guess, "guess": guess, "step": step, "stage": DONE}


def invert(
    field: Field,
    x1: State,
    *,
    steps: int | Sequence[float] | Grid = 50,
    solver: Solver | str = "heun",
    method: str = "reversed",
    iterations: int | None = None,
    **options: object,
) -> Solution:
    """The latents of data: `draw(field, source=solution.x, ...)` with the same grid and solver makes the data again.

    Args:
        field: A field.
        x1: Data, rows first.
        steps: Number of steps, or the explicit times of the sampling grid, in either direction.
        solver: The sampler's solver.
        method: "reversed": the same solver on the reversed grid, which comes back up to its order; "fixed-point":
            `FixedPoint`, which undoes the very steps of an explicit one-step solver.
        iterations: Of "fixed-point", 10 by default; each costs one forward step.
        **options: `guidance`, a scale or a `CFG`; `trace` keeps the states at all times, data first; and the field's
            conditions. Guidance above one makes the velocity steeper: take more steps.

    Returns:
        The solution with the latents in `x`, at `times[-1]`.

    Raises:
        UnknownOptionError: For an unknown method or solver.
        OptionError: For iterations without "fixed-point", a solver that it cannot undo, or a stochastic solver.
        ShapeError: For data of another shape than the field's, or integers.
        RheosError: For data that is not finite or in other units than the field's.
        ConditionError: For unknown or ill-shaped conditions, and misspelt options.
        NonFiniteError: If the result is not finite; with few steps the iteration may diverge.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> from rheos.sample import draw
        >>> field, x = GaussianMixtureField([[1.0, 2.0]], [0.5]), torch.tensor([[1.5, 2.0]]).double()
        >>> z = invert(field, x, steps=20, solver="euler", method="fixed-point", iterations=20).x
        >>> bool((draw(field, 1, source=z, steps=20, solver="euler") - x).abs().max() < 1e-6)
        True
    """
    check_choice("method", method, METHODS)
    forward = named_solver(solver) if isinstance(solver, str) else solver
    if forward.stochastic:
        raise OptionError(f"{type(forward).__name__} adds noise, so it has no inverse. Use an ODE solver.")
    if iterations is not None and method != "fixed-point":
        raise OptionError(f"iterations belong to method='fixed-point', got {iterations} with {method!r}.")
    if isinstance(x1, Tensor):
        if field.shape is not None and tuple(x1.shape[1:]) != field.shape:
            raise ShapeError(f"x1 must be rows of the shape {field.shape}, got {tuple(x1.shape)}.")
        check_range(x1, field.value_range, "x1")
    if not all(v.is_floating_point() for v in tensors(x1)):
        raise ShapeError(f"x1 must be floating numbers, got {dtype_of(x1)}.")
    guidance = cast("float | CFG | None", options.pop("guidance", None))
    trace = bool(options.pop("trace", False))
    cond = conditions(field, rows(x1), options)
    steers: tuple[Steer, ...] = ()
    if guidance is not None and guidance != 1.0:
        if not field.conditions:
            raise OptionError(f"guidance {guidance} needs a conditional field; this one takes no conditions.")
        cfg = guidance if isinstance(guidance, CFG) else CFG(float(guidance))
        if cfg.zero_steps:
            raise OptionError(
                f"zero_steps={cfg.zero_steps} counts a sampler's steps from the noise; invert without it."
            )
        steers = (cfg,)
    if not isinstance(steps, Integral | Grid):
        given = check_grid(cast("Sequence[float]", steps))
        steps = given if given[0] < given[-1] else given[::-1]
    times = grid_for(field, steps)[::-1]
    if method == "fixed-point":
        back: Solver = FixedPoint(forward=forward, iterations=10 if iterations is None else iterations)
    else:
        back, times = forward, grid_for(field, times)  # which begins where the velocity is finite
    was_training = field.training
    field.eval()
    try:
        return solve(field, x1, times, back, cond=cond, steers=steers, trace=trace)
    finally:
        field.train(was_training)
