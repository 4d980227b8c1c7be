r"""What a diffusers scheduler's configuration says about its model: path, prediction, clock and shift.

Flow models live on the linear path, with noise level $\sigma = 1 - t$, timestep $1000 \sigma$ and output
$x_0 - x_1$, the negative velocity. Diffusion models live on the table of their betas, and predict noise, data or the
v of v-prediction. Only the configuration is read, so nothing here needs diffusers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from rheos.adapters.table import StepTable, alpha_bars, rescaled
from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import AffinePath, Kind
from rheos.core.scalars import Scalar
from rheos.core.state import State, scale
from rheos.sample.grids import Grid, check_grid

__all__ = ["FLOW_SCHEDULERS", "TABLE_SCHEDULERS", "Config", "Semantics", "config_of", "semantics"]

Config = Mapping[str, object]

FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
)  # fmt: skip
"""Classes whose models are flows."""

TABLE_SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler", "DEISMultistepScheduler",
)  # fmt: skip
"""Classes whose models have a table of betas, or are flows when `use_flow_sigmas` is set."""

PREDICTIONS: dict[str, Kind] = {"epsilon": "noise", "sample": "data", "v_prediction": "v_prediction"}
TINY = 2.0**-24
"""What most schedulers put in place of a last alpha_bar of zero."""


@final
@dataclass(frozen=True)
class Semantics:
    """The meaning of a model's clock and output.

    Args:
        path: Where its states live: linear, or a `StepTable`.
        predicts: What its output is, times `sign`.
        sign: -1 for the usual flow models, whose output points to the noise.
        steps: Number of timesteps of training, K.
        shift: The static time shift; 1 where it depends on the picture's size.
        dynamic: (tokens, mu, tokens, mu): two points of the line that gives mu by size, where the shift is e^mu.
        linear_shift: Whether the dynamic shift is mu itself.
        terminal: The last noise level before zero that grids are stretched to, or None.
        inverted: Whether the model's clock counts t itself.

    Example:
        >>> flow = semantics({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
        >>> flow.timestep(0.25), flow.grid(2)
        (750.0, (0.0, 0.25, 1.0))
    """

    path: AffinePath
    predicts: Kind
    sign: float = 1.0
    steps: int = 1000
    shift: float = 1.0
    dynamic: tuple[float, float, float, float] | None = None
    linear_shift: bool = False
    terminal: float | None = None
    inverted: bool = False

    @property
    def flow(self) -> bool:
        """Whether the model is a flow; else it has a table of steps."""
        return not isinstance(self.path.law, StepTable)

    @property
    def finite(self) -> tuple[float, float]:
        """Times at which the model may be asked, and a velocity formed of its answer is finite.

        A diffusion knows its first step, and nothing cleaner; a noise estimate says nothing about the data at t = 0
        where that is pure noise, nor a data estimate about the velocity at t = 1.
        """
        low = 1e-3 if self.predicts == "noise" and self.path.law.alpha(0.0) == 0 else 0.0
        return low, min(1.0 if self.flow else 1 - 1 / self.steps, 1 - 1e-5 if self.predicts == "data" else 1.0)

    def timestep(self, t: Scalar) -> Scalar:
        """What the model takes for time t; whole numbers of a table are exact."""
        if self.flow:
            return self.steps * (t if self.inverted else 1 - t)
        k = cast(StepTable, self.path.law).step(t)
        if isinstance(k, Tensor):
            near = k.round()
            return k.where((k - near).abs() > 1e-6, near).clamp(min=0)
        near_k = round(k)
        return max(float(near_k) if abs(k - near_k) <= 1e-6 else k, 0.0)

    def time(self, timestep: Scalar) -> Scalar:
        """The time of a timestep."""
        if self.flow:
            return timestep / self.steps if self.inverted else 1 - timestep / self.steps
        return cast(StepTable, self.path.law).time(timestep)

    def level(self, t: Scalar) -> Scalar:
        r"""The noise level that diffusers calls sigma: 1 - t of a flow, $\sigma / \alpha$ of a diffusion."""
        if self.flow:
            return t if self.inverted else 1 - t
        return sc.divide(self.path.law.sigma(t), self.path.law.alpha(t))

    def time_of_level(self, level: float) -> float:
        """The time of a noise level."""
        if self.flow:
            return level if self.inverted else 1 - level
        t = 1.0 if level == 0 else cast(float, self.path.law.t_of_lam(-math.log(level)))
        return 0.0 if -1e-4 < t < 0 else t  # the first level of the table, rounded

    def value(self, output: State) -> State:
        """The model's output as a prediction of kind `predicts`."""
        return output if self.sign == 1 else scale(self.sign, output)

    def shift_for(self, mu: float | None) -> float:
        """The time shift of a grid; mu wins over the static one.

        Raises:
            OptionError: If mu is needed and missing, or given to a model that does not shift by size.
        """
        if self.dynamic is None:
            if mu is not None:
                raise OptionError("mu was given, but this model's shift does not depend on the picture's size.")
            return self.shift
        if mu is None:
            raise OptionError("This model's shift depends on the picture's size: give mu, see `mu(tokens)`.")
        return mu if self.linear_shift else math.exp(mu)

    def mu(self, tokens: int) -> float:
        """Mu of a picture of so many tokens, on the line of the configuration.

        Raises:
            OptionError: If the shift does not depend on the size.
        """
        if self.dynamic is None:
            raise OptionError("This model's shift does not depend on the picture's size.")
        n0, mu0, n1, mu1 = self.dynamic
        return mu0 + (mu1 - mu0) * (tokens - n0) / (n1 - n0)

    def grid(self, n: int, mu: float | None = None, spacing: str = "uniform") -> tuple[float, ...]:
        """A grid of n steps from noise to the clean end, shifted once; a diffusion's uniform grid has whole timesteps.

        Args:
            n: Number of steps.
            mu: For models that shift by size.
            spacing: See `rheos.sample.Grid`.

        Raises:
            OptionError: If n < 1, or more than a diffusion's steps.
        """
        if self.flow:
            times = Grid(spacing, shift=self.shift_for(mu), terminal=self.terminal)(n, self.path.law)
            return check_grid([max(times[0], self.finite[0]), *times[1:]])
        if mu is not None:
            self.shift_for(mu)
        if spacing != "uniform":
            return Grid(spacing)(n, self.path.law)
        if not 1 <= n <= self.steps:
            raise OptionError(f"This diffusion has {self.steps} steps, a grid has 1 to that many, got {n}.")
        return check_grid([*(1 - round(self.steps * (1 - i / n)) / self.steps for i in range(n)), 1.0])

    def shifted(self, levels: Sequence[float], mu: float | None = None) -> tuple[float, ...]:
        """The grid of given noise levels, as pipelines give them: a flow's are shifted here; a last 0 is added.

        Raises:
            TimeError: If they do not decrease.
        """
        given = [float(v) for v in levels]
        given = given if given and given[-1] == 0 else [*given, 0.0]
        if not self.flow:
            return check_grid([self.time_of_level(v) for v in given])
        k = self.shift_for(mu)
        return self.stretched(check_grid([(1 - v) / ((1 - v) + k * v) for v in given]))

    def stretched(self, times: tuple[float, ...]) -> tuple[float, ...]:
        """The grid whose last noise level before zero is `terminal`."""
        if self.terminal is None or len(times) < 3:
            return times
        factor = (1 - self.terminal) / times[-2]
        return check_grid([*(t * factor for t in times[:-1]), times[-1]])


def config_of(scheduler: object) -> Config:
    """The configuration of a scheduler object, or the given mapping.

    Raises:
        OptionError: If it is neither.
    """
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise OptionError(f"A scheduler of diffusers, or its configuration, is needed; got {type(scheduler).__name__}.")
    named = dict(config)
    named.setdefault("_class_name", "" if isinstance(scheduler, Mapping) else type(scheduler).__name__)
    if isinstance(named.get("source"), Mapping):  # one of ours
        return config_of(named["source"])
    return named


def semantics(scheduler: object) -> Semantics:
    """Read a scheduler of diffusers, or its configuration as a mapping with `_class_name`.

    Raises:
        UnknownOptionError: For a class, beta schedule or prediction that has no meaning here.
        OptionError: For options that contradict each other, or are not supported.
    """
    config = config_of(scheduler)
    name = str(config.get("_class_name"))
    check_choice("scheduler", name, (*FLOW_SCHEDULERS, *TABLE_SCHEDULERS))
    if config.get("variance_type") in ("learned", "learned_range"):
        raise OptionError(f"{name} with a learned variance is not supported: half of such an output is no prediction.")
    if name in FLOW_SCHEDULERS or config.get("use_flow_sigmas"):
        return _flow(config, name)
    return _table(config, name)


def _number(config: Config, key: str, default: float) -> float:
    value = config.get(key)
    return default if value is None else float(cast(float, value))


def _flow(config: Config, name: str) -> Semantics:
    prediction = str(config.get("prediction_type", "flow_prediction"))
    if name in FLOW_SCHEDULERS:
        prediction = "flow_prediction"
    check_choice("prediction_type", prediction, (*PREDICTIONS, "flow_prediction"))
    inverted = bool(config.get("invert_sigmas"))
    sign = -1.0 if prediction == "flow_prediction" and not inverted else 1.0
    dynamic = None
    if config.get("use_dynamic_shifting"):
        keys = (("base_image_seq_len", 256), ("base_shift", 0.5), ("max_image_seq_len", 4096), ("max_shift", 1.15))
        n0, mu0, n1, mu1 = (_number(config, key, default) for key, default in keys)
        dynamic = (n0, mu0, n1, mu1)
    terminal = config.get("shift_terminal")
    return Semantics(
        AffinePath("linear"),
        "velocity" if prediction == "flow_prediction" else PREDICTIONS[prediction],
        sign,
        int(_number(config, "num_train_timesteps", 1000)),
        1.0 if dynamic else _number(config, "shift" if name in FLOW_SCHEDULERS else "flow_shift", 1.0),
        dynamic,
        config.get("time_shift_type") == "linear",
        float(cast(float, terminal)) if terminal else None,
        inverted,
    )


def _table(config: Config, name: str) -> Semantics:
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction == "flow_prediction":
        raise OptionError(f"{name} has prediction_type='flow_prediction' without use_flow_sigmas=True. Set both.")
    check_choice("prediction_type", prediction, PREDICTIONS)
    if config.get("timestep_type", "discrete") != "discrete":
        raise OptionError(
            f"{name} with timestep_type={config['timestep_type']!r} is not supported; only 'discrete' is."
        )
    steps = int(_number(config, "num_train_timesteps", 1000))
    betas = config.get("trained_betas")
    if betas is not None:
        bar, bars = 1.0, []
        for beta in cast(Sequence[float], betas):
            bar *= 1 - float(beta)
            bars.append(bar)
    else:
        schedule = str(config.get("beta_schedule", "linear"))
        bars = alpha_bars(schedule, steps, _number(config, "beta_start", 1e-4), _number(config, "beta_end", 0.02))
    if config.get("rescale_betas_zero_snr"):
        exact = name in ("DDIMScheduler", "DDPMScheduler")
        if exact and prediction == "epsilon":
            raise OptionError(
                "A model that predicts noise cannot start from pure noise (rescale_betas_zero_snr=True): its output "
                "says nothing about the data there. Such models use prediction_type='v_prediction'."
            )
        bars = [*rescaled(bars)[:-1], 0.0 if exact else TINY]
    return Semantics(AffinePath(StepTable(tuple(bars))), PREDICTIONS[prediction], 1.0, len(bars))
