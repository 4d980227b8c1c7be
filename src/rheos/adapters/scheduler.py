"""`as_diffusers`: the door to `stepping`, which needs diffusers."""

from typing import TYPE_CHECKING

from rheos.adapters.semantics import config_of
from rheos.core.errors import OptionError, missing_extra
from rheos.core.solver import Solver

if TYPE_CHECKING:
    from rheos.adapters.stepping import RheosScheduler

__all__ = ["as_diffusers"]

SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def as_diffusers(
    solver: Solver | str = "heun", scheduler: object = None, *, spacing: str | None = None
) -> "RheosScheduler":
    """A solver as a scheduler that a stock pipeline accepts.

    Args:
        solver: A name of `rheos.sample.SOLVERS`, or a solver of one of these classes, with fixed steps.
        scheduler: Whose place it takes, or its configuration: says what the model predicts, on which path, with which
            shift. A plain flow without one.
        spacing: Of the default grid, see `rheos.sample.Grid`; uniform unless given.

    Returns:
        What to put in the place of the pipeline's own: `pipe.scheduler = as_diffusers("heun", pipe.scheduler)`.

    Raises:
        MissingExtraError: If diffusers is not installed.
        OptionError: For an adaptive solver; or if the scheduler asks for a spacing of its own, and `spacing` does not
            say what to use.

    Example:
        >>> scheduler = as_diffusers("heun")
        >>> scheduler.set_timesteps(2)
        >>> scheduler.timesteps.tolist(), scheduler.order
        ([1000.0, 500.0, 500.0, 0.0], 2)
    """
    try:
        from rheos.adapters.stepping import FLOW, RheosScheduler, solver_name
    except ImportError as error:
        raise missing_extra("as_diffusers", "diffusers", "diffusers") from error
    source = dict(config_of(FLOW if scheduler is None else scheduler))
    asked = [name for name in SPACED if source.get(name)]
    if asked and spacing is None:
        raise OptionError(
            f"The scheduler asks for {asked[0]}=True, which spaces its own grid. Say which grid you want: "
            "spacing='uniform', 'logsnr' or 'edm'."
        )
    kept = {k: v for k, v in source.items() if k == "_class_name" or not (k in SPACED or k.startswith("_"))}
    made: RheosScheduler = RheosScheduler(solver_name(solver), kept, spacing or "uniform")
    return made
