"""`draw`: samples from a field, from nothing but a number of rows."""

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import cast

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.solver import Solver
from rheos.core.state import State, concat, device_of, map_state, rows
from rheos.core.steer import Steer
from rheos.sample.flight import split
from rheos.sample.grids import Grid, Searched, check_grid
from rheos.sample.guidance import CFG
from rheos.sample.loop import Loop
from rheos.sample.methods import solver as named_solver
from rheos.sample.solution import Solution, drive, fly, solve

__all__ = ["Solution", "conditions", "draw", "draw_solution", "drive", "grid_for", "solve"]

OPTIONS = ("batch", "guidance", "n", "seed", "shape", "solver", "source", "steers", "steps", "trace")


def grid_for(field: Field, steps: int | Sequence[float] | Grid, n: int | None = None) -> tuple[float, ...]:
    """The grid of a number of steps on this field: uniform, with the field's own shift, inside its finite range.

    A field with times of its own has no other grid; explicit times are taken at their word.

    Args:
        field: Its shift is the one that it was trained with.
        steps: A number of steps, explicit times, or a `Grid` (then `n` gives the steps).
        n: Steps of a `Grid`.

    Raises:
        OptionError: If a Grid comes without n, or the field was made for other steps.
        TimeError: For explicit times that are no grid.
    """
    law = field.path.law if isinstance(field.path, AffinePath) else None
    if isinstance(steps, Grid):
        if n is None:
            raise OptionError("A Grid needs the number of steps too: steps=Grid(...)(20).")
        if field.times is not None and steps.steps is None:
            raise OptionError(f"This field was made for its own {_own(field)}, not for the grid {steps}. Leave it out.")
        times = steps(n, law)
    elif isinstance(steps, Integral) and field.times is not None:
        if int(steps) != len(field.times) - 1:
            raise OptionError(f"This field was made for its own {_own(field)}, got steps={steps}.")
        times = field.times
    elif isinstance(steps, Integral):
        times = Grid(shift=field.shift)(int(steps), law)
    else:
        times = check_grid(cast(Sequence[float], steps))
    low, high = field.finite
    inner = [t for t in times[1:-1] if low < t < high]
    if times[0] < times[-1]:
        return check_grid((max(times[0], low), *inner, times[-1]))
    return check_grid((min(times[0], high), *inner, max(times[-1], low)))


def _own(field: Field) -> str:
    times = field.times or ()
    return f"{len(times) - 1} steps at t = {', '.join(f'{t:.4g}' for t in times)}"


def _usual(
    field: Field, steps: int | Sequence[float] | Grid | None, solver: Solver | str | None
) -> tuple[int | Sequence[float] | Grid, Solver]:
    """Steps and solver where they are not given: the field's own times by Euler, or what is usual for its kind."""
    if steps is None:
        steps = field.usual_steps if field.times is None else len(field.times) - 1
    if solver is None:
        solver = field.usual if field.times is None else "euler"
    return steps, named_solver(solver) if isinstance(solver, str) else solver


def _check_guidance(field: Field, steps: object, guidance: float | CFG | None) -> None:
    """Refuse a scale of guidance that times, or a field made for its own times, were not made with."""
    scale = guidance.scale if isinstance(guidance, CFG) else 1.0 if guidance is None else guidance

    def differs(meant: float) -> bool:
        return bool((scale != meant).any()) if isinstance(scale, Tensor) else scale != meant

    if field.times is not None and differs(1.0):
        raise OptionError(
            "This field was made for its own times, on trajectories that hold their guidance already, got guidance "
            f"{scale}. Leave it out."
        )
    if isinstance(steps, Searched) and differs(steps.guidance):
        raise OptionError(
            f"These times were searched with guidance {steps.guidance:g}, got {scale}. Search again, or take them as "
            "they are: steps=schedule.times."
        )


def conditions(field: Field, n: int, given: dict[str, object]) -> Cond:
    """Conditions as tensors with n rows: numbers are repeated, labels checked against the network's classes.

    Raises:
        ConditionError: For unknown names, wrong row counts, or labels outside 0 .. classes - 1.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _check_names(field, given)
    cond: Cond = {}
    for name, value in given.items():
        try:
            v = torch.as_tensor(value, device=field.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConditionError(f"{name} must be numbers, one for all samples or one a sample: {error}.") from error
        if v.ndim == 0 or (len(v) == 1 and n > 1):
            v = v.expand(n, *v.shape[1:])
        if len(v) != n:
            raise ConditionError(f"{name} has {len(v)} rows for {n} samples; give one value, or one a sample.")
        cond[name] = v
    if "label" in cond:
        field.check_label(cond["label"])
    return field.complete(cond, n)


def _check_kinds(steps: object, solver: object, guidance: object, steers: object) -> None:
    """Refuse options of the wrong kind, by name."""
    if isinstance(steps, bool | str) or (isinstance(steps, float) and not isinstance(steps, Integral)):
        raise OptionError(f"steps is a number of steps, a sequence of times or a Grid, got {steps!r}.")
    if isinstance(solver, type):
        raise OptionError(f"solver is a name or a solver, got the class {solver.__name__}. Write {solver.__name__}().")
    if not (solver is None or isinstance(solver, str | Solver)):
        raise OptionError(f"solver is a name or a solver, got {type(solver).__name__}.")
    if not (
        guidance is None or isinstance(guidance, CFG) or (isinstance(guidance, Real) and not isinstance(guidance, bool))
    ):
        raise OptionError(
            f"guidance is a number or a CFG, got {type(guidance).__name__}; CFG(scale=...) takes one a row."
        )
    if isinstance(steers, Steer):
        raise OptionError(
            f"steers is a list of steers, got a single {type(steers).__name__}. Write [{type(steers).__name__}(...)]."
        )


def _check_names(field: Field, given: dict[str, object]) -> None:
    """Refuse unknown names; a misspelt option of `draw` arrives here too."""
    for name in given:
        if name not in field.conditions:
            near = get_close_matches(name, [*field.conditions, *OPTIONS], n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            known = ", ".join(sorted(field.conditions)) or "none"
            raise ConditionError(f"Unknown condition or option {name}; this network takes: {known}.{hint}")


def draw(
    field: Field,
    n: int = 16,
    *,
    steps: int | Sequence[float] | Grid | None = None,
    solver: Solver | str | None = None,
    guidance: float | CFG | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    **options: object,
) -> Tensor:
    """Draw samples.

    Args:
        field: A field; `train.fit` gives it the shape of its data.
        n: How many.
        steps: Number of steps on a uniform grid with the field's shift, or explicit times; 20, or those that the field
            was made for, unless given.
        solver: A name (see `rheos.sample.SOLVERS`) or a `Solver`; heun, or euler for a field with times of its own,
            unless given.
        guidance: Scale of classifier-free guidance, or a `CFG`; 1 or None costs one network call a step.
        seed: One integer for all, or one a row; a row's sample depends on its own seed alone.
        **options: `shape` of one sample where the field has none, `steers`, `source` (start states), `batch` (rows
            at a time), and the field's conditions: one value for all rows, or one a row.

    Returns:
        (n, *shape), on the field's device.

    Raises:
        OptionError: For n < 1, batch < 1, an unknown shape, guidance of an unconditional field, or steps or guidance
            that the field or the times were not made for.
        ConditionError: For unknown or ill-shaped conditions, and misspelt options.
        ShapeError: If `source` has not n rows.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> field = GaussianMixtureField(means=[[4.0, 0.0]], stds=[0.1])
        >>> draw(field, 500, steps=50).mean(0).round(decimals=1).abs()
        tensor([4., 0.])
    """
    solution = draw_solution(field, n, steps=steps, solver=solver, guidance=guidance, seed=seed, **options)
    return cast(Tensor, solution.x)


def draw_solution(
    field: Field,
    n: int = 16,
    *,
    steps: int | Sequence[float] | Grid | None = None,
    solver: Solver | str | None = None,
    guidance: float | CFG | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    **options: object,
) -> Solution:
    """Like `draw`, returning the seeds, the grid and the count of network calls as well.

    Further options: `trace` keeps the states at every time.
    """
    _check_count("n", n)
    _check_kinds(steps, solver, guidance, options.get("steers"))
    shape = cast(tuple[int, ...] | None, options.pop("shape", None)) or field.shape
    steers = tuple(cast(Sequence[Steer], options.pop("steers", ())))
    source = cast(State | None, options.pop("source", None))
    batch = cast(int | None, options.pop("batch", None))
    batch = n if batch is None else batch
    trace = bool(options.pop("trace", False))
    _check_count("batch", batch)
    cond = conditions(field, n, options)
    steps, method = _usual(field, steps, solver)
    _check_guidance(field, steps, guidance)
    if guidance is not None and guidance != 1.0:
        if not field.conditions:
            raise OptionError(f"guidance {guidance} needs a conditional field; this one takes no conditions.")
        if field.baked != 1.0:
            warnings.warn(
                f"This field was trained with guidance {field.baked:g} in its weights; more of it overshoots. "
                "Leave guidance out.",
                UserWarning,
                stacklevel=2,
            )
        steers = (guidance if isinstance(guidance, CFG) else CFG(float(guidance)), *steers)
    seeds, times = row_seeds(seed, n), grid_for(field, steps)
    loop = Loop(field, method, steers)
    x = _source(field, shape, seeds, times) if source is None else source
    if rows(x) != n:
        raise ShapeError(f"source has {rows(x)} rows for n = {n}.")
    was_training = field.training
    field.eval()
    try:
        begun = loop.begin(x, times, cond, seeds.to(device_of(x)))
        sizes = [min(batch, n - k) for k in range(0, n, batch)]
        pieces = zip(split(begun, sizes), torch.split(seeds, sizes), range(0, n, batch), strict=True)
        parts = [fly(loop, field, flight, own, trace, first) for flight, own, first in pieces]
    finally:
        field.train(was_training)
    if len(parts) == 1:
        return parts[0]
    path = map_state(lambda *p: torch.cat(p, 1), *[cast(State, s.path) for s in parts]) if trace else None
    calls, evaluated = sum(s.calls for s in parts), sum(s.rows for s in parts)
    return Solution(concat([s.x for s in parts]), calls, evaluated, times, seeds, path, x)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise OptionError(f"{name} must be an integer, got {value!r}.")
    if value < 1:
        raise OptionError(f"{name} must be at least 1, got {value}.")


def _source(field: Field, shape: tuple[int, ...] | None, seeds: Tensor, times: tuple[float, ...]) -> State:
    """Where a flow begins: the space's random points, at the noise level of the first time."""
    if times[0] > times[-1]:
        raise OptionError("steps runs from data to noise; give the data to begin with: source=x.")
    if begins := getattr(field.net, "begins", None):  # its source is no noise, and no condition tells which
        raise OptionError(f"This field's flows begin at {begins}. Give the states to begin with: source=z.")
    if shape is None:
        raise OptionError("This field does not know the shape of its data. Give it: shape=(3, 32, 32).")
    like = torch.empty(len(seeds), *shape, dtype=field.dtype, device=field.device)
    x = field.path.space.random(like, Draws(seeds.to(field.device)), "source")
    level = field.path.law.sigma(times[0]) if isinstance(field.path, AffinePath) else 1.0
    return x if level == 1.0 else map_state(lambda v: v * level, x)
