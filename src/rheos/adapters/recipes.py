r"""A scheduler of diffusers as a solver of ours with its grid, so that its result is reproduced.

The grid is the scheduler's own: a copy of it is asked for its noise levels, which are carried over to times. Levels
that repeat, where the scheduler spends a call on standing still, are left out.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.adapters.semantics import Config, Semantics, config_of, semantics
from rheos.core.errors import OptionError
from rheos.core.solver import Solver
from rheos.sample.grids import check_grid
from rheos.sample.methods import solver as named_solver

__all__ = ["Recipe", "from_scheduler"]


@final
@dataclass(frozen=True)
class Recipe:
    """What reproduces a scheduler: `solve(field, recipe.start(noise, n), recipe.times(n), recipe.solver)`.

    Args:
        solver: The method.
        semantics: What the scheduler's model means.
        differences: In which the solver differs from the scheduler, a sentence each; empty when it does not.
        scheduler: The scheduler itself.
    """

    solver: Solver
    semantics: Semantics
    differences: tuple[str, ...]
    scheduler: Any = field(repr=False)

    def _asked(self, n: int | None, options: dict[str, object]) -> Any:
        peer = copy.deepcopy(self.scheduler)
        if n is None:
            peer.set_timesteps(**options)
        else:
            peer.set_timesteps(n, **options)
        return peer

    def times(self, n: int | None = None, **options: object) -> tuple[float, ...]:
        """The scheduler's grid in times.

        Args:
            n: Steps.
            **options: What its `set_timesteps` takes beside: mu, sigmas, timesteps.

        Raises:
            OptionError: If its timesteps and its steps disagree.
        """
        peer = self._asked(n, options)
        if hasattr(peer, "sigmas"):
            return _grid([self.semantics.time_of_level(float(v)) for v in peer.sigmas.double()])
        return _grid([cast(float, self.semantics.time(float(k))) for k in _steps(peer, self.semantics.steps)])

    def start(self, noise: Tensor, n: int, **options: object) -> Tensor:
        """The state that a pipeline with this scheduler begins with, on our path.

        Args:
            noise: Standard normal numbers.
            n: Steps.
            **options: As in `times`.
        """
        factor = float(getattr(self._asked(n, options), "init_noise_sigma", 1.0))
        if _exploding(config_of(self.scheduler)):
            factor *= float(self.semantics.path.law.alpha(self.times(n, **options)[0]))
        return noise * factor


def _grid(times: list[float]) -> tuple[float, ...]:
    kept = [times[0], *(b for a, b in pairwise(times) if abs(b - a) > 1e-9)]
    return check_grid(kept)


def _steps(peer: Any, total: int) -> list[float]:
    """Table steps of schedulers that jump by a fixed count, and the step where they end; -1 is clean."""
    ks = list(dict.fromkeys(int(k) for k in peer.timesteps))  # PNDM repeats one
    jump = total // peer.num_inference_steps
    if any(b != a - jump for a, b in pairwise(ks)):
        raise OptionError(
            f"{type(peer).__name__} jumps by {jump} timesteps, but its timesteps {ks} lie apart otherwise "
            f"(timestep_spacing={peer.config.timestep_spacing!r}): it steps to noise levels that it never asks for. "
            f"Choose a number of steps that divides {total}, with spacing 'leading' or 'trailing'."
        )
    last = ks[-1] - jump
    clean = bool(peer.config.get("set_alpha_to_one", type(peer).__name__ == "DDPMScheduler"))
    return [*map(float, ks), float(last if last >= 0 else (-1 if clean else 0))]


def _exploding(config: Config) -> bool:
    """Whether the scheduler keeps its state as data plus noise times sigma."""
    return str(config["_class_name"]) in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")


Found = tuple[Solver | None, list[str]]
"""A solver, or None, and in what it differs."""

NOISE = "its noise comes from a generator, ours from row seeds"


def _flow_euler(config: Config) -> Found:
    return (named_solver("renoise"), [NOISE]) if config.get("stochastic_sampling") else (named_solver("euler"), [])


def _flow_heun(config: Config) -> Found:
    return named_solver("heun-edm"), []


def _clipped(config: Config) -> list[str]:
    return [f"{name}=True changes the data estimate" for name in ("clip_sample", "thresholding") if config.get(name)]


def _ddim(config: Config) -> Found:
    return named_solver("ddim"), _clipped(config)


def _ddpm(config: Config) -> Found:
    variance = str(config.get("variance_type", "fixed_small"))
    other = [] if variance in ("fixed_small", "fixed_small_log") else [f"variance_type={variance!r}"]
    return named_solver("ddpm"), [*_clipped(config), *other, NOISE]


def _euler(config: Config) -> Found:
    return named_solver("ddim"), []


def _ends_early(config: Config) -> list[str]:
    """Multistep schedulers whose last step is of first order where ours is not."""
    if config.get("final_sigmas_type", "zero") == "zero" or not config.get("lower_order_final", True):
        return []
    return ["its last step is of first order although it ends before zero noise (lower_order_final)"]


def _dpm(config: Config) -> Found:
    algorithm, order = config.get("algorithm_type", "dpmsolver++"), int(cast(int, config.get("solver_order", 2)))
    differences = [*_clipped(config), *(_ends_early(config) if order > 1 else [])]
    if algorithm == "sde-dpmsolver++" and order < 3 and config.get("solver_type", "midpoint") == "midpoint":
        return named_solver("sde-dpm++" if order == 1 else "sde-dpm++2m"), [*differences, NOISE]
    if algorithm != "dpmsolver++":
        return None, []
    if order == 1:
        return named_solver("ddim"), differences
    if order == 3:
        if config.get("lower_order_final", True):
            differences.append("below 15 steps its last but one step is of second order (lower_order_final)")
        return replace(named_solver("dpm++3m"), compat="published"), differences  # type: ignore[call-arg]
    return replace(named_solver("dpm++2m"), variant=config.get("solver_type", "midpoint")), differences  # type: ignore[call-arg]


def _unipc(config: Config) -> Found:
    order, differences = int(cast(int, config.get("solver_order", 2))), _clipped(config)
    for name in ("disable_corrector", "solver_p"):
        if config.get(name):
            differences.append(f"{name}={config[name]!r}")
    if not config.get("predict_x0", True):
        differences.append("predict_x0=False")
    if order > 2 and config.get("lower_order_final", True):
        differences.append("its last but one step is of second order (lower_order_final)")
    differences += _ends_early(config) if order > 1 else []
    variant = str(config.get("solver_type", "bh2"))
    return replace(named_solver("unipc"), order=order, variant=variant, reach=math.inf), differences  # type: ignore[call-arg]


def _deis(config: Config) -> Found:
    order = int(cast(int, config.get("solver_order", 2)))
    other = [f"its order {order} takes polynomials in log rho, ours in rho"] if order > 1 else []
    return replace(named_solver("deis"), order=order), [*_clipped(config), *other]  # type: ignore[call-arg]


PEERS: dict[str, Callable[[Config], Found]] = {
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerDiscreteScheduler": _euler,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
}


def from_scheduler(scheduler: Any, *, approximate: bool = False) -> Recipe:
    """The solver and the grid that reproduce a scheduler of diffusers.

    Args:
        scheduler: The scheduler object.
        approximate: Whether a solver that differs in what `Recipe.differences` says will do.

    Raises:
        OptionError: If there is no such solver, or it differs and `approximate` is not set.
        UnknownOptionError: For a class without a meaning here.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> recipe = from_scheduler(FlowMatchEulerDiscreteScheduler(shift=1.0))
        >>> [round(1 - t, 4) for t in recipe.times(2)]      # the second call is spent at 0.001
        [1.0, 0.001, 0.0]
    """
    config = config_of(scheduler)
    if not callable(getattr(scheduler, "set_timesteps", None)):
        raise OptionError(f"A scheduler object is needed, its grid is asked of it; got {type(scheduler).__name__}.")
    meaning, name = semantics(scheduler), str(config["_class_name"])
    _same_table(scheduler, meaning)
    solver, differences = PEERS[name](config) if name in PEERS else (None, [])
    if solver is None:
        raise OptionError(
            f"No solver of rheos is {name} with this configuration. Use any other on the same model: "
            "as_diffusers('dpm++2m', scheduler), or solve on from_diffusers(pipeline)."
        )
    if differences and not approximate:
        raise OptionError(
            f"{type(solver).__name__} is not quite {name}: {'; '.join(differences)}. Accept it with approximate=True.",
            differences=tuple(differences),
        )
    return Recipe(solver, meaning, tuple(differences), scheduler)


def _same_table(scheduler: Any, meaning: Semantics) -> None:
    """Compare the scheduler's own table with what its configuration says."""
    own: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if own is None or meaning.flow:
        return
    ours = torch.tensor(cast(Sequence[float], meaning.path.law.alpha_bar), dtype=torch.float64)  # type: ignore[attr-defined]
    if own.shape != ours.shape or not torch.allclose(own.double().cpu(), ours, rtol=1e-3, atol=1e-6):
        raise OptionError(
            f"{type(scheduler).__name__} has a table (alphas_cumprod) other than its configuration says. Was it "
            "changed by hand? Write the betas into the configuration: trained_betas=[...]."
        )
