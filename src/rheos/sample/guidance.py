r"""Guidance that mixes predictions: classifier-free and its relatives.

$v = v_\varnothing + w (v_c - v_\varnothing)$: w = 1 is the conditional field (one network call, bit for bit the
unguided result), w = 0 the unconditional one. Papers that write $(1 + \omega)$ mean $w = 1 + \omega$.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.base import Cond
from rheos.core.errors import OptionError
from rheos.core.field import Name
from rheos.core.paths import AffinePath, Kind
from rheos.core.state import State, add, expand, map_state
from rheos.core.steer import Branch, Steer, View

__all__ = ["CFG", "AutoGuidance", "ClassifierGuidance", "SeveralConditions"]


def _row_sum(a: State, b: State) -> Tensor:
    """The inner product of each row, (B,)."""
    parts = map_state(lambda p, q: (p * q).flatten(1).sum(1), a, b)
    return parts if isinstance(parts, Tensor) else torch.stack(list(parts.values())).sum(0)


def guide(null: State, cond: State, scale: float | Tensor) -> State:
    """null + scale (cond - null)."""
    return map_state(lambda n, c: torch.lerp(n, c, _weight(scale, c)), null, cond)


def _weight(scale: float | Tensor, like: Tensor) -> float | Tensor:
    return expand(scale, like) if isinstance(scale, Tensor) else scale


def _inside(view: View, interval: tuple[float, float]) -> bool | Tensor:
    t = view.t
    if isinstance(t, Tensor):
        return (t >= interval[0]) & (t <= interval[1])
    return interval[0] <= t <= interval[1]  # type: ignore[operator]


@final
@dataclass(frozen=True)
class CFG(Steer):
    """Classifier-free guidance.

    Args:
        scale: w; a number or one a row.
        interval: Times in which it acts; outside, the conditional field is used alone.
        rescale: phi in [0, 1]: pull the guided data estimate's standard deviation back to the conditional one's.
        zero_star: Project the unconditional velocity on the conditional one first (CFG-Zero*).
        zero_steps: With `zero_star`, how many first steps use a zero velocity.
        negative: Conditions that replace the null ones: a negative prompt.

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
        if not isinstance(self.scale, Tensor) and not abs(self.scale) < sc.math.inf:
            raise OptionError(f"scale must be a finite number, got {self.scale}.")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise OptionError(f"interval must be two increasing times in [0, 1], got {self.interval}.")
        if not 0 <= self.rescale <= 1:
            raise OptionError(f"rescale must lie in [0, 1], got {self.rescale}.")

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale may differ between joined requests."""
        return {"scale": self.scale}

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
            twin = {**view.null(b.cond), **(self.negative or {})}
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
        scale: float | Tensor = view.own["scale"]
        inside = _inside(view, self.interval)
        if isinstance(inside, Tensor):
            scale = torch.where(inside, torch.as_tensor(scale, dtype=torch.float64, device=inside.device), 1.0)
        if self.zero_star:
            v_cond, v_null = (view.convert(v, view.kind, "velocity") for v in (cond, null))
            ratio = _row_sum(v_cond, v_null) / _row_sum(v_null, v_null).clamp(min=1e-8)
            mixed = guide(map_state(lambda v: v * expand(ratio, v), v_null), v_cond, scale)
            if isinstance(view.i, int) and view.i < self.zero_steps:
                mixed = map_state(torch.zeros_like, mixed)
            return view.convert(mixed, "velocity", view.kind)
        mixed = guide(null, cond, scale)
        return self._rescaled(view, mixed, cond) if self.rescale else mixed

    def _rescaled(self, view: View, mixed: State, cond: State) -> State:
        data, plain = (view.convert(v, view.kind, "data") for v in (mixed, cond))

        def pull(d: Tensor, p: Tensor) -> Tensor:
            ratio = p.flatten(1).std(1) / d.flatten(1).std(1).clamp(min=1e-8)
            return d * expand(self.rescale * ratio + (1 - self.rescale), d)

        change = map_state(lambda d, p: pull(d, p) - d, data, plain)
        if view.kind == "data":
            return add(mixed, 1.0, change)
        path: AffinePath = view.path  # type: ignore[assignment]
        law = path.law
        factor = sc.divide(law.wronskian(view.t), law.sigma(view.t))  # type: ignore[arg-type]
        return add(mixed, factor, change)


@final
@dataclass(frozen=True)
class SeveralConditions(Steer):
    r"""$v = v_\varnothing + \sum_j w_j (v_{c_j} - v_\varnothing)$, each condition alone against the null.

    Args:
        scales: Scale by condition name.

    Reference: Compositional Visual Generation, Liu et al. (2022), eq. 11.
    """

    scales: dict[str, float]

    def branches(self, view: View, branches: dict[Name, Branch]) -> dict[Name, Branch]:
        """The null branch, and one for each named condition."""
        out: dict[Name, Branch] = {}
        for name, b in branches.items():
            null = view.null(b.cond)
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
            for key, w in self.scales.items():
                part = values[(*name, "only", key)]
                total = map_state(lambda a, p, n, w=w: a + w * (p - n), total, part, null)
            out[name] = total
        return out


@final
@dataclass(frozen=True)
class AutoGuidance(Steer):
    """Guide with a weak version of the model: sample from `Routed(strong, weak=weak)`.

    Args:
        scale: w of v = v_weak + w (v_strong - v_weak).

    Reference: Guiding a Diffusion Model with a Bad Version of Itself, Karras et al. (2024), eq. 4.
    """

    scale: float | Tensor = 2.0

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
        scale: gamma.

    Reference: Dhariwal & Nichol (2021); The Principles of Diffusion Models, guidance.
    """

    log_prob: Callable[[Tensor, Tensor], Tensor]
    scale: float | Tensor = 1.0
    kind: ClassVar[Kind | None] = "velocity"

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The scale may differ between joined requests."""
        return {"scale": self.scale}

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Add the classifier's gradient to every branch; nothing at t = 0, where it says nothing."""
        path: AffinePath = view.path  # type: ignore[assignment]
        law, t = path.law, view.t
        if isinstance(t, float) and law.alpha(t) == 0:
            return values
        factor = sc.divide(law.sigma(t) * law.wronskian(t), law.alpha(t))  # type: ignore[arg-type]
        with torch.enable_grad():
            x = view.x.detach().requires_grad_(True)  # type: ignore[union-attr]
            clock = torch.as_tensor(t, dtype=torch.float64).expand(x.shape[0])
            (slope,) = torch.autograd.grad(self.log_prob(x, clock).sum(), x)
        push = map_state(lambda g: g * _weight(view.own["scale"], g), slope)
        return {name: add(v, factor, push) for name, v in values.items()}
