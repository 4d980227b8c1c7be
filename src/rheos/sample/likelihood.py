r"""Exact likelihood: the density that a flow gives to a data point.

Along the flow $\frac{d}{dt} \ln p_t(x_t) = -\nabla \cdot v(x_t, t)$, so
$\ln p_1(x_1) = \ln p_0(x_0) - \int_0^1 \nabla \cdot v\, dt$ with $x_0$ where the flow run backwards from $x_1$ ends.
State and integral are walked together by the one sampling loop, so every ordinary solver serves.

Hutchinson's probes stay fixed during a solve, which keeps the integrand smooth, and are keyed by row.

Reference: Neural Ordinary Differential Equations, Chen et al. (2018), theorem 1; FFJORD, Grathwohl et al. (2019);
    Score-Based Generative Modeling through SDEs, Song et al. (2021), appendix D.2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, ShapeError, SourceNotGaussianError, TimeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.solver import Solver
from rheos.core.state import flat_rows
from rheos.data.ranges import check_range
from rheos.sample.divergence import NOISES, PROBE, Augmented, draw_probes
from rheos.sample.draw import conditions
from rheos.sample.grids import Grid, check_grid
from rheos.sample.guidance import CFG
from rheos.sample.loop import Loop
from rheos.sample.methods import solver as named_solver
from rheos.sample.solution import fly

__all__ = ["Likelihood", "dequantise", "log_likelihood"]

DIVERGENCES = ("hutchinson", "exact")
STEPS = 100
"""Of a fixed-step solver, unless given."""


@final
@dataclass(frozen=True)
class Likelihood:
    """What `log_likelihood` returns.

    Args:
        logp: (B,) float64, log density in nats.
        error: (B,) float64, standard error of logp over the probes: NaN for one probe, which says nothing of its
            spread, and zero for the exact divergence. The solver's own error is not in it.
        z: The latents: where the flow run backwards ends, at t = 0.
        calls: Network calls.
        times: The grid, from data to noise; it begins at the last time at which the velocity is finite.
        seeds: int64 (B,), the seed of each row's probes.
    """

    logp: Tensor
    error: Tensor
    z: Tensor
    calls: int
    times: tuple[float, ...]
    seeds: Tensor

    def bits_per_dim(self, value_range: tuple[float, float] | None = None, levels: int = 256) -> Tensor:
        r"""Bits a dimension, $-\frac{\ln p}{D \ln 2} - \log_2 \Delta$, (B,).

        A picture of whole levels has no density. `dequantise` spreads each level over a bin of width
        $\Delta = (b - a) / (\text{levels} - 1)$. The probability of a level is the integral over its bin, so by
        Jensen's inequality the mean of this over dequantised pictures is at least their cost in bits.

        Args:
            value_range: (a, b), the values of the lowest and the highest level; None for continuous data, Delta = 1.
            levels: Levels of a value, at least 2.

        Raises:
            OptionError: For an empty range or levels < 2.
        """
        width = 1.0 if value_range is None else _bin(value_range, levels)
        dim = math.prod(self.z.shape[1:])
        return -self.logp / (dim * math.log(2)) - math.log2(width)


def _bin(value_range: tuple[float, float], levels: int) -> float:
    """The distance of two neighbouring levels."""
    low, high = value_range
    if not low < high or levels < 2:
        raise OptionError(f"Bins need low < high and levels >= 2, got {value_range} and {levels} levels.")
    return (high - low) / (levels - 1)


def dequantise(x: Tensor, value_range: tuple[float, float], levels: int = 256, seed: int | Tensor = 0) -> Tensor:
    r"""Pictures of whole levels, each spread evenly over its bin: $x + \Delta (u - \tfrac12)$, u uniform on (0, 1).

    Args:
        x: (B, ...), values in `value_range`.
        value_range: Values of the lowest and the highest level.
        levels: Levels of a value.
        seed: One integer, or one a row.

    Raises:
        OptionError: For an empty range, levels < 2, or pictures of whole numbers.

    Example:
        >>> noisy = dequantise(torch.ones(2, 3), (-1.0, 1.0))
        >>> bool((noisy - 1).abs().max() <= 1 / 255)
        True
    """
    width = _bin(value_range, levels)
    if not x.is_floating_point():
        raise OptionError(f"dequantise adds parts of a level, which {x.dtype} cannot hold: give x.float().")
    draws = Draws(row_seeds(seed, len(x)).to(x.device))
    return x + (draws.uniform("dequantise", shape=x.shape[1:]) - 0.5).mul_(width).to(x.dtype)


def log_likelihood(
    field: Field,
    x: Tensor,
    *,
    steps: int | Sequence[float] | Grid | None = None,
    solver: Solver | str = "dopri5",
    divergence: str = "hutchinson",
    probes: int = 1,
    seed: int | Sequence[int] | Tensor = 0,
    **options: object,
) -> Likelihood:
    r"""The log density of data under the flow.

    One call of the network an evaluation; behind it one backward pass a probe, or one a dimension for "exact". Where
    the velocity is not finite at t = 1 the walk begins at the last finite time $\tau$, at $\alpha_\tau x$ with
    $D \ln \alpha_\tau$ added: that neglects the noise $\sigma_\tau$ alone.

    Args:
        field: A field with a Gaussian source.
        x: (B, ...) data, of any shape.
        steps: Number of steps, or explicit times from the data's time to 0 (in either direction; a first time below
            1 gives the density of the marginal there). Default: one interval for an adaptive solver, 100 steps else.
        solver: An ODE solver on the velocity, by default Dormand-Prince with both tolerances 1e-5, which its error
            control applies to the integral as well.
        divergence: "hutchinson" or "exact".
        probes: Hutchinson probes, averaged.
        seed: Of the probes: one integer, or one a row; a row's result depends on its own seed alone.
        **options: `noise` of the probes, "rademacher" or "gaussian"; `guidance`, a scale or a `CFG`: then the density
            is that of guided samples; `differentiable` keeps the graph, so that logp has gradients in x and in the
            network's parameters, and memory grows with the number of steps; `base`, the log density (B,) of latents,
            for a source that is not Gaussian; and the field's conditions.

    Returns:
        The densities with their standard errors and the latents.

    Raises:
        OptionError: For options out of range, solvers that add noise or scale the state, fields with a memory, and
            fields whose output does not depend on x (they detach it).
        SourceNotGaussianError: If the source has no known density and `base` is not given.
        ShapeError: For a dict state, or data of another shape than the field's.
        TimeError: For times that do not end at 0, or are no grid.
        ConditionError: For unknown or ill-shaped conditions, and misspelt options.
        RheosError: For data that is not finite or in other units than the field's.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> field = GaussianMixtureField(means=[[4.0, 0.0]], stds=[0.5])
        >>> told = log_likelihood(field, torch.tensor([[4.0, 0.0]]), divergence="exact")
        >>> round(float(told.logp), 3), round(float(field.log_density(torch.tensor([[4.0, 0.0]]))), 3)
        (-0.452, -0.452)
    """
    method = named_solver(solver) if isinstance(solver, str) else solver
    noise, keep = str(options.pop("noise", "rademacher")), bool(options.pop("differentiable", False))
    guidance = cast("float | CFG | None", options.pop("guidance", None))
    base = cast("Callable[[Tensor], Tensor] | None", options.pop("base", None))
    _check_walk(field, x, method, base)
    check_choice("divergence", divergence, DIVERGENCES)
    check_choice("noise", noise, NOISES)
    if probes < 1 or (probes > 1 and divergence == "exact"):
        raise OptionError(f"probes must be at least 1, and 1 for the exact divergence, got {probes}.")
    steers = _guidance(field, guidance)
    if keep:
        _check_differentiable(method, steers)
    n, exact = len(x), divergence == "exact"
    seeds, grid = row_seeds(seed, n), _times(field, steps, method.adaptive)
    cond = conditions(field, n, options)
    if not exact:
        cond = {**cond, PROBE: draw_probes(Draws(seeds.to(x.device)), x, probes, noise)}
    times = _from_finite(field, grid)
    factor = _shrink(field, grid[0], times[0])
    wrapped = Augmented(field, exact, keep)
    loop = Loop(wrapped, method, steers)
    start = {"x": x * factor, "gain": torch.zeros(n, probes, dtype=torch.float64, device=x.device)}
    was_training = field.training
    field.eval()
    try:
        solution = fly(loop, wrapped, loop.begin(start, times, cond, seeds.to(x.device)), seeds, False, grad=keep)
    finally:
        field.train(was_training)
    end = cast("dict[str, Tensor]", solution.x)
    prior = _log_normal(end["x"], field) if base is None else base(end["x"]).double()
    gain = end["gain"]
    logp = prior + gain.mean(1) + math.log(factor) * math.prod(x.shape[1:])
    error = (
        torch.zeros_like(logp) if exact else gain.detach().std(1) / math.sqrt(probes) if probes > 1 else logp * math.nan
    )
    return Likelihood(logp, error, end["x"], solution.calls, times, seeds)


def _log_normal(z: Tensor, field: Field) -> Tensor:
    """The log density of the source, N(0, sigma_0^2 I), in float64."""
    std = float(field.path.law.sigma(0.0)) if isinstance(field.path, AffinePath) else 1.0
    flat = flat_rows(z).double()
    return -0.5 * (flat / std).square().sum(1) - flat.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))


def _times(field: Field, steps: int | Sequence[float] | Grid | None, adaptive: bool) -> tuple[float, ...]:
    """The grid from data to noise."""
    if isinstance(steps, Grid):
        raise OptionError("A Grid needs the number of steps too: steps=Grid(...)(20).")
    if steps is None:
        steps = 1 if adaptive else STEPS
    if isinstance(steps, Integral):
        law = field.path.law if isinstance(field.path, AffinePath) else None
        grid = Grid(shift=field.shift)(int(steps), law)
    else:
        grid = check_grid(cast("Sequence[float]", steps))
    grid = grid[::-1] if grid[0] < grid[-1] else grid
    if grid[-1] != 0:
        raise TimeError(f"A likelihood needs times down to 0, where the source is, these end at {grid[-1]}.")
    return grid


def _from_finite(field: Field, grid: tuple[float, ...]) -> tuple[float, ...]:
    """The grid from the last time at which the velocity is finite."""
    start = min(grid[0], field.finite[1])
    return (start, *(t for t in grid[1:] if t < start))


def _shrink(field: Field, wanted: float, start: float) -> float:
    """The ratio of alpha at the time where the walk begins to alpha at the data's."""
    if wanted == start or not isinstance(field.path, AffinePath):
        return 1.0
    return float(field.path.law.alpha(start)) / float(field.path.law.alpha(wanted))


def _check_walk(field: Field, x: Tensor, method: Solver, base: object) -> None:
    """Refuse what has no likelihood before any network call."""
    if isinstance(x, dict) or not field.path.flat:
        what = "a dict state" if isinstance(x, dict) else f"points of {field.path.space}"
        raise ShapeError(f"log_likelihood takes one tensor in a flat space, got {what}.")
    if field.shape is not None and tuple(x.shape[1:]) != field.shape:
        raise ShapeError(f"x must be rows of the shape {field.shape}, got {tuple(x.shape)}.")
    if x.ndim < 2 or not x.is_floating_point():
        raise ShapeError(f"x must be floating numbers of the shape (B, ...), got {x.dtype} {tuple(x.shape)}.")
    check_range(x.detach(), field.value_range, "x")
    if not field.gaussian and base is None:
        raise SourceNotGaussianError(
            "A likelihood needs the source's density; this field was declared gaussian=False. Give it: base=f, where "
            "f(z) is the log density (B,) of latents."
        )
    name = type(method).__name__
    if method.stochastic or not method.schedule_free:
        raise OptionError(
            f"{name} {'adds noise' if method.stochastic else 'scales the state by the schedule'}, so it cannot walk "
            "the log density. Use an ODE solver on the velocity: dopri5, rk4, heun."
        )
    if field.remembers:
        raise OptionError("A field with a memory is no function of (x, t), so it has no likelihood.")
    if torch.is_inference_mode_enabled():
        raise OptionError("A likelihood differentiates the field, which torch.inference_mode forbids: use no_grad.")


def _check_differentiable(method: Solver, steers: tuple[CFG, ...]) -> None:
    if method.adaptive:
        raise OptionError(
            f"differentiable=True needs a fixed-step solver, since the steps of {type(method).__name__} depend on the "
            "state: solver='rk4', steps=50."
        )
    if steers:
        raise OptionError("differentiable=True works without guidance only.")


def _guidance(field: Field, guidance: float | CFG | None) -> tuple[CFG, ...]:
    """Guidance that mixes velocities by weights that do not depend on x: it mixes divergences alike."""
    if guidance is None or guidance == 1.0:
        return ()
    if not field.conditions:
        raise OptionError(f"guidance {guidance} needs a conditional field; this one takes no conditions.")
    cfg = guidance if isinstance(guidance, CFG) else CFG(float(guidance))
    if cfg.rescale or cfg.zero_star:
        raise OptionError("A likelihood needs guidance without rescale and zero_star, whose weights depend on x.")
    return (cfg,)
