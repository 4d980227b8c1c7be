r"""Guidance that mixes predictions: classifier-free and its relatives.

$v = v_\varnothing + w (v_c - v_\varnothing)$: w = 1 is the conditional field (one network call, bit for bit the
unguided result), w = 0 the unconditional one. Papers that write $(1 + \omega)$ mean $w = 1 + \omega$.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError
from rheos.core.paths import AffinePath, Kind
from rheos.core.query import Name
from rheos.core.scalars import Scalar
from rheos.core.state import State, add, expand, flat_rows, map_state, tensors, where_rows
from rheos.core.steer import Branch, Steer, View

__all__ = ["CFG", "AutoGuidance", "ClassifierGuidance", "SeveralConditions"]


def _row_sum(a: State, b: State) -> Tensor:
    """The inner product of each row, (B,)."""
    return torch.stack(tensors(map_state(lambda p, q: flat_rows(p * q).sum(1), a, b))).sum(0)


def guide(null: State, cond: State, scale: float | Tensor) -> State:
    """From the unconditional value through the conditional one, which a scale of 1 gives exactly."""
    return map_state(lambda n, c: torch.lerp(n, c, expand(scale, c)), null, cond)


def _clock(view: View) -> Scalar:
    """The one time of a row, which guidance by time needs."""
    if isinstance(view.t, dict):
        raise OptionError("This guidance acts by time and needs one clock a row, not one a variable.")
    return view.t


def _inside(view: View, interval: tuple[float, float]) -> bool | Tensor:
    if interval == (0.0, 1.0):
        return True
    t = _clock(view)
    return (t >= interval[0]) & (t <= interval[1])


@final
@dataclass(frozen=True)
class CFG(Steer):
    """Classifier-free guidance.

    Args:
        scale: w; a number or one a row.
        interval: Times in which it acts; outside, the conditional field is used alone.
        rescale: phi in [0, 1]: pull the guided data estimate's standard deviation back to the conditional one's.
        zero_star: Rescale the unconditional velocity to fit the conditional one best first (CFG-Zero*).
        zero_steps: With `zero_star`, how many first steps use a zero velocity.
        negative: Conditions that replace the null ones: a negative prompt; one row for all, or one a row.

    Raises:
        OptionError: For values outside their ranges.

    Reference: Ho & Salimans (2022); interval: Kynkaanniemi et al. (2024); rescale: Lin et al. (2023), eq. 15-16;
        CFG-Zero*: Fan et al. (2025), algorithm 1.
    """

    scale: float | Tensor = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    zero_star: bool = False
    zero_steps: int = 0
    negative: Cond | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Tensor) and not math.isfinite(self.scale):
            raise OptionError(f"scale must be a finite number, got {self.scale}.")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise OptionError(f"interval must be two increasing times in [0, 1], got {self.interval}.")
        if not 0 <= self.rescale <= 1:
            raise OptionError(f"rescale must lie in [0, 1], got {self.rescale}.")
        if self.zero_steps < 0 or (self.zero_steps and not self.zero_star):
            raise OptionError(f"zero_steps must be at least 0 and needs zero_star=True, got {self.zero_steps}.")

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale and the negative conditions may differ between joined requests."""
        return {"scale": self.scale, **{f"negative {name}": v for name, v in (self.negative or {}).items()}}

    def _idle(self, view: View) -> bool:
        """One shared scale of 1, or a shared clock outside the interval: the conditional branch alone."""
        one = not isinstance(view.own["scale"], Tensor) and view.own["scale"] == 1.0
        return (one and not self.zero_star) or _inside(view, self.interval) is False

    def branches(self, view: View, branches: dict[Name, Branch]) -> dict[Name, Branch]:
        """Each branch beside its unconditional twin."""
        if self._idle(view):
            return branches
        out: dict[Name, Branch] = {}
        for name, b in branches.items():
            given = {n: view.own[f"negative {n}"] for n in self.negative or {}}
            rest = {n: v for n, v in b.cond.items() if n not in given}  # a field may have no null for what is given
            twin = {**(view.null(rest) if rest else {}), **given}
            if twin.keys() != b.cond.keys():
                raise ConditionError(f"negative names {sorted(self.negative or {})}, the field takes {sorted(b.cond)}.")
            out[name] = b
            out[(*name, "null")] = Branch(b.x, twin)
        return out

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Extrapolate from the unconditional value through the conditional one."""
        if self._idle(view):
            return values
        out = {}
        for name, cond in values.items():
            if name and name[-1] == "null":
                continue
            null = values[(*name, "null")]
            out[name] = self._mix(view, null, cond)
        return out

    def _mix(self, view: View, null: State, cond: State) -> State:
        mixed = self._zero_star(view, null, cond) if self.zero_star else guide(null, cond, view.own["scale"])
        if self.rescale:
            mixed = self._rescaled(view, mixed, cond)
        inside = _inside(view, self.interval)
        return where_rows(inside, mixed, cond) if isinstance(inside, Tensor) and inside.ndim else mixed

    def _zero_star(self, view: View, null: State, cond: State) -> State:
        v_cond, v_null = (view.convert(v, view.kind, "velocity") for v in (cond, null))
        ratio = _row_sum(v_cond, v_null) / _row_sum(v_null, v_null).clamp(min=1e-8)
        mixed = guide(map_state(lambda v: v * expand(ratio, v), v_null), v_cond, view.own["scale"])
        early = view.i < self.zero_steps
        if isinstance(early, Tensor):
            mixed = where_rows(early, map_state(torch.zeros_like, mixed), mixed)
        elif early:
            mixed = map_state(torch.zeros_like, mixed)
        return view.convert(mixed, "velocity", view.kind)

    def _rescaled(self, view: View, mixed: State, cond: State) -> State:
        data, plain = (view.convert(v, view.kind, "data") for v in (mixed, cond))

        def pull(d: Tensor, p: Tensor) -> Tensor:
            ratio = flat_rows(p).std(1, correction=0) / flat_rows(d).std(1, correction=0).clamp(min=1e-8)
            return d * expand(self.rescale * ratio + (1 - self.rescale), d)

        change = map_state(lambda d, p: pull(d, p) - d, data, plain)
        if view.kind == "data":
            return add(mixed, 1.0, change)
        law, t = cast(AffinePath, view.path).law, _clock(view)
        sigma = law.sigma(t)  # at zero the data estimate is the state, whatever the guidance
        return add(mixed, sc.where(sigma == 0, 0.0, sc.divide(law.wronskian(t), sigma)), change)


@final
@dataclass(frozen=True)
class SeveralConditions(Steer):
    r"""$v = v_\varnothing + \sum_j w_j (v_{c_j} - v_\varnothing)$, each condition alone against the null.

    Args:
        scales: Scale by condition name; a number or one a row.

    Raises:
        ConditionError: In a solve, for a name that the field does not take.

    Reference: Compositional Visual Generation, Liu et al. (2022), eq. 11.
    """

    scales: dict[str, float | Tensor]

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scales may differ between joined requests."""
        return dict(self.scales)

    def branches(self, view: View, branches: dict[Name, Branch]) -> dict[Name, Branch]:
        """The null branch, and one for each named condition."""
        out: dict[Name, Branch] = {}
        for name, b in branches.items():
            null = view.null(b.cond)
            unknown = sorted(self.scales.keys() - null.keys())
            if unknown:
                raise ConditionError(f"scales name {', '.join(unknown)}; the field takes {', '.join(sorted(null))}.")
            out[name] = Branch(b.x, null)
            for key in self.scales:
                out[(*name, "only", key)] = Branch(b.x, {**null, key: b.cond[key]})
        return out

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Add the scaled differences."""
        out = {}
        for name, null in values.items():
            if len(name) >= 2 and name[-2] == "only":
                continue
            total = null
            for key in self.scales:
                difference = map_state(torch.sub, values[(*name, "only", key)], null)
                total = add(total, view.own[key], difference)
            out[name] = total
        return out


@final
@dataclass(frozen=True)
class AutoGuidance(Steer):
    """Guide with a weak version of the model: sample from `Routed(strong, weak=weak)`.

    Args:
        scale: w of v = v_weak + w (v_strong - v_weak); a number or one a row.

    Reference: Guiding a Diffusion Model with a Bad Version of Itself, Karras et al. (2024), eq. 4.
    """

    scale: float | Tensor = 2.0
    fields: ClassVar[tuple[str, ...]] = ("weak",)

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale may differ between joined requests."""
        return {"scale": self.scale}

    def branches(self, view: View, branches: dict[Name, Branch]) -> dict[Name, Branch]:
        """Each branch beside the same one for the weak model."""
        return {k: b for name, b in branches.items() for k in (name, (*name, "weak"))}

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Extrapolate from the weak value through the strong one."""
        scale = view.own["scale"]
        return {
            name: guide(values[(*name, "weak")], strong, scale)
            for name, strong in values.items()
            if not (name and name[-1] == "weak")
        }


@final
@dataclass(frozen=True)
class ClassifierGuidance(Steer):
    r"""$v \mathrel{+}= \gamma \frac{\sigma D}{\alpha} \nabla_x \ln p_t(y \mid x)$.

    Args:
        log_prob: Called (x, t) with t of shape (B,); returns ln p_t(y | x), (B,), differentiable in x.
        scale: gamma; a number or one a row.

    Raises:
        SourceNotGaussianError: On use, for a field without a score.

    Reference: Dhariwal & Nichol (2021); The Principles of Diffusion Models, guidance.
    """

    log_prob: Callable[[Tensor, Tensor], Tensor]
    scale: float | Tensor = 1.0
    kind: ClassVar[Kind | None] = "velocity"
    gaussian: ClassVar[bool] = True

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale may differ between joined requests."""
        return {"scale": self.scale}

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Add the classifier's gradient to every branch; nothing at t = 0, where it says nothing."""
        law, t = cast(AffinePath, view.path).law, _clock(view)
        alpha = law.alpha(t)
        factor = sc.where(alpha == 0, 0.0, sc.divide(law.sigma(t) * law.wronskian(t), alpha))
        with torch.enable_grad():
            x = cast(Tensor, view.x).detach().requires_grad_(True)
            clock = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(x.shape[0])
            (slope,) = torch.autograd.grad(self.log_prob(x, clock).sum(), x)
        push = slope * expand(view.own["scale"], slope)
        return {name: add(v, factor, push) for name, v in values.items()}
