"""A rheos solver as a scheduler of diffusers; importing this module imports diffusers.

A stock pipeline evaluates its network once per timestep and hands the output to `step`. So the scheduler lists every
evaluation of the solver, inner ones too, and each call of `step` is one ask and one tell of the solver.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from rheos.adapters.semantics import Config, Semantics, semantics
from rheos.core.errors import OptionError, TimeError, check_choice
from rheos.core.solver import DONE, Solver, SolverState
from rheos.core.state import affine
from rheos.sample.grids import Grid
from rheos.sample.methods import SOLVERS
from rheos.sample.methods import solver as named_solver

__all__ = ["Evaluation", "RheosScheduler", "rehearse", "solver_from", "solver_name"]

FLOW: Config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
MIRRORED = (
    "num_train_timesteps", "prediction_type", "shift", "use_dynamic_shifting", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len", "time_shift_type", "use_flow_sigmas",
)  # fmt: skip
"""What pipelines look up in their scheduler's configuration."""


class Evaluation(NamedTuple):
    """One network call of a solve.

    Args:
        interval: Its interval of the grid.
        stage: Its stage inside the interval.
        t: Its time.
    """

    interval: int
    stage: int
    t: float


def rehearse(solver: Solver, times: Sequence[float]) -> tuple[Evaluation, ...]:
    """Every evaluation that a bound solver asks for on a grid, found by walking it with zeros.

    Raises:
        OptionError: If the solver chooses its own steps, or moves the state before an evaluation.

    Example:
        >>> [e.t for e in rehearse(named_solver("rk4"), (0.0, 1.0))]
        [0.0, 0.5, 0.5, 1.0]
    """
    if solver.adaptive:
        raise OptionError(f"{type(solver).__name__} chooses its own steps; a pipeline needs them listed beforehand.")
    if solver.kicks:
        raise OptionError(f"{type(solver).__name__} moves the state before the network sees it; a pipeline cannot.")
    zero = torch.zeros(1, 1, dtype=torch.float64)
    s, plan = solver.init(zero), list[Evaluation]()
    for i, (t, end) in enumerate(pairwise(times)):
        s = solver.start(s, t, end)
        while s["stage"] != DONE:
            plan.append(Evaluation(i, s["stage"], cast(float, solver.ask(s).t)))
            s = solver.tell(s, zero, zero)
    return tuple(plan)


def solver_name(solver: Solver | str) -> str | dict[str, Any]:
    """A solver as JSON: its name in `SOLVERS`, or that with the options that differ.

    Raises:
        OptionError: If no named solver is of its class.
    """
    if isinstance(solver, str):
        check_choice("solver", solver, SOLVERS)
        return solver
    options: dict[str, dict[str, Any]] = {}
    for name, make in SOLVERS.items():
        usual = make()
        if usual == solver:
            return name
        if type(usual) is type(solver):
            changed = {f.name for f in fields(usual) if getattr(usual, f.name) != getattr(solver, f.name)}
            plain = {n: asdict(solver)[n] for n in changed}
            if all(isinstance(v, bool | int | float | str) for v in plain.values()):
                options[name] = plain
    if not options:
        raise OptionError(f"{solver!r} is none of the named solvers, so a scheduler's configuration cannot hold it.")
    best = min(options, key=lambda name: len(options[name]))
    return {"name": best, **options[best]}


def solver_from(name: str | Mapping[str, Any]) -> Solver:
    """The inverse of `solver_name`."""
    if isinstance(name, str):
        return named_solver(name)
    options = dict(name)
    return replace(named_solver(options.pop("name")), **options)


class RheosScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Any solver with fixed steps, as the scheduler of a stock pipeline.

    Times given in calls are diffusers': `sigmas` are noise levels before the shift, as pipelines give them, `timesteps`
    are final. Without either the grid is uniform, shifted once, and ends at no noise; no call is spent at a noise level
    of zero that the solver does not ask for.

    Args:
        solver: A name of `rheos.sample.SOLVERS`, or what `solver_name` makes of a solver.
        source: The configuration of the scheduler that this one stands in for: what the model means.
        spacing: Of the default grid, see `rheos.sample.Grid`.

    Raises:
        OptionError: For an adaptive solver, or a source that asks for a spacing of its own.
    """

    _compatibles: list[str] = []  # noqa: RUF012 (diffusers' own form)
    init_noise_sigma = 1.0

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, solver: str | dict[str, Any] = "heun", source: Mapping[str, Any] | None = None, spacing: str = "uniform"
    ) -> None:
        self.spacing = Grid(spacing).spacing
        source = dict(source) if source else dict(FLOW)
        self.meaning: Semantics = semantics(source)
        low, high = self.meaning.finite
        self.solver = solver_from(solver).bind(self.meaning.path, (low, high))
        mirrored = {name: source[name] for name in MIRRORED if name in source}
        self.register_to_config(**{**mirrored, "source": source, "num_train_timesteps": self.meaning.steps})
        rehearse(self.solver, (0.25, 0.5))
        self.times: tuple[float, ...] = ()
        self.num_inference_steps: int | None = None
        self._plan: tuple[Evaluation, ...] = ()
        k = torch.arange(self.meaning.steps, 0, -1, dtype=torch.float64)
        self.timesteps: Tensor = (k if self.meaning.flow else k - 1).float()
        self.sigmas: Tensor = self._levels([float(self.meaning.time(float(v))) for v in self.timesteps])
        self.set_begin_index(None)

    def __len__(self) -> int:
        return self.meaning.steps

    @property
    def order(self) -> int:
        """Network calls a step, which is what pipelines mean by order."""
        return self.solver.evaluations

    @property
    def step_index(self) -> int | None:
        """How many evaluations are done; None before the first."""
        return self._index

    @property
    def begin_index(self) -> int | None:
        """The evaluation to begin at."""
        return self._begin

    def set_begin_index(self, begin_index: int | None = 0) -> None:
        """Begin at an evaluation, the first of its interval; forgets any trajectory under way."""
        self._begin, self._index = begin_index, cast(int | None, None)
        self._state: SolverState | None = None
        self._given: Tensor | None = None

    def _levels(self, times: Sequence[float]) -> Tensor:
        levels = [float(self.meaning.level(t)) for t in times]
        return torch.tensor([min(v, 1e12) for v in levels], dtype=torch.float32)  # pure noise: finite for pipelines

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Choose the grid.

        Args:
            num_inference_steps: Steps, each of `order` network calls.
            device: Where `timesteps` go.
            sigmas: Noise levels at which steps begin, decreasing, before the shift; a last 0 is added.
            mu: For models that shift by the picture's size.
            timesteps: Timesteps at which steps begin, decreasing, as they are; the end is added.

        Raises:
            OptionError: For both sigmas and timesteps, or neither and no number of steps, or numbers that differ.
            TimeError: If they do not decrease.
        """
        given = sigmas if sigmas is not None else timesteps
        if sigmas is not None and timesteps is not None:
            raise OptionError("Give sigmas or timesteps, not both.")
        if given is None:
            if num_inference_steps is None:
                raise OptionError("set_timesteps needs num_inference_steps, sigmas or timesteps.")
            if self.meaning.dynamic is None:
                mu = None  # pipelines compute it anyway
            grid = self.meaning.grid(num_inference_steps, mu, self.spacing)
        elif num_inference_steps is not None and len(given) != num_inference_steps:
            raise OptionError(f"{len(given)} values were given for num_inference_steps={num_inference_steps}.")
        elif sigmas is not None:
            grid = self.meaning.shifted(sigmas, mu if self.meaning.dynamic is not None else None)
        else:
            steps = [float(v) for v in cast(Sequence[float], timesteps)]
            if not all(0 <= v <= 1000 for v in steps) or max(steps, default=0.0) <= 1:
                raise TimeError(
                    f"timesteps lie between 0 and 1000, noise first, got {steps}. Noise levels are sigmas=."
                )
            grid = tuple(float(self.meaning.time(v)) for v in steps)
            grid = grid if grid[-1] == 1.0 else (*grid, 1.0)
            if any(b <= a for a, b in pairwise(grid)):
                raise TimeError(f"timesteps must move from noise to data, got {list(given)}.")
        self.times = grid
        self.num_inference_steps = len(grid) - 1
        self._plan = rehearse(self.solver, grid)
        clock = [float(self.meaning.timestep(e.t)) for e in self._plan]
        self.timesteps = torch.tensor(clock, dtype=torch.float64).float().to(device)
        self.sigmas = self._levels([*(e.t for e in self._plan), grid[-1]])
        self.set_begin_index(None)

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The state itself: it has the scale that the model was trained with."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> "SchedulerOutput | tuple[Tensor]":
        """Take one network output.

        Args:
            model_output: At `sample` and `timestep`.
            timestep: The one that is due; read at the first call only, to find the place.
            sample: What the last call returned. Another state (an inpainted one) restarts nothing: the step goes on
                from it, and history stays.
            generator: For methods that draw noise.
            return_dict: Whether to return an object with `prev_sample`, else a tuple.

        Returns:
            The state that the network is asked at next, or the result.

        Raises:
            OptionError: Before `set_timesteps`, after the last step, or for a state that was changed in the middle of
                a step of several evaluations.
        """
        state = self._begun(timestep, sample) if self._state is None else self._moved(self._state, sample)
        ask = self.solver.ask(state)
        x = cast(Tensor, ask.x)
        value = self.meaning.path.convert(
            self.meaning.value(model_output.to(x.dtype)), x, ask.t, self.meaning.predicts, ask.kind
        )
        noise = None
        if self.solver.stochastic:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        state = self.solver.tell(state, value, noise)
        self._index = cast(int, self._index) + 1
        if state["stage"] == DONE and self._index < len(self._plan):
            i = self._plan[self._index].interval
            state = self.solver.start(state, self.times[i], self.times[i + 1])
        after = state["x"] if state["stage"] == DONE else self.solver.ask(state).x
        self._state, self._given = state, cast(Tensor, after).to(sample.dtype)
        return SchedulerOutput(prev_sample=self._given) if return_dict else (self._given,)

    def _begun(self, timestep: float | Tensor, sample: Tensor) -> SolverState:
        """The first interval: where `set_begin_index` says, or the one that begins at this timestep."""
        if not self._plan:
            raise OptionError("Call set_timesteps before step.")
        if self._begin is None:
            starts = [k for k, e in enumerate(self._plan) if e.stage == 0]
            distance = (self.timesteps.cpu()[starts] - float(timestep)).abs()
            nearest = int(distance.argmin())
            if distance[nearest] > 0.5 and distance[nearest] > 1e-3 * self.meaning.steps:
                raise OptionError(f"No step begins at timestep {float(timestep)}; take one of scheduler.timesteps.")
            self._begin = starts[nearest]
        place = self._plan[self._begin]
        if place.stage != 0:
            raise OptionError(
                f"Evaluation {self._begin} is inside a step of {type(self.solver).__name__}, not its begin."
            )
        self._index = self._begin
        start = sample if sample.dtype == torch.float64 else sample.float()
        return self.solver.start(self.solver.init(start), self.times[place.interval], self.times[place.interval + 1])

    def _moved(self, state: SolverState, sample: Tensor) -> SolverState:
        """The state, put where the pipeline put it."""
        if self._index is not None and self._index >= len(self._plan):
            raise OptionError("All steps are taken. Call set_timesteps to begin again.")
        if sample is self._given or (self._given is not None and torch.equal(sample, self._given.to(sample.dtype))):
            return state
        if state["stage"] != 0:
            raise OptionError(
                f"The state was changed in the middle of a step of {type(self.solver).__name__}. Change it between "
                f"steps (every {self.order} evaluations), or use a solver of one evaluation such as 'dpm++2m'."
            )
        moved = self.solver.move(state, sample.to(cast(Tensor, state["x"]).dtype))
        return self.solver.start(moved, state["t"], state["end"])

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Data carried to the noise level of timesteps, one for all rows or one a row."""
        t = self.meaning.time(torch.as_tensor(timesteps, device=original_samples.device).double().reshape(-1))
        law = self.meaning.path.law
        return cast(Tensor, affine(law.alpha(t), original_samples, law.sigma(t), noise))

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` as flow pipelines call it."""
        return self.add_noise(sample, noise, timestep)
