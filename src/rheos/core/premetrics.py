r"""Premetrics: how far a prediction is from its target, one number a row.

The mean-type ones (`MSE`, `L1`, `Huber`) average over all elements of a row. For a dict state they average
each part over its own elements and then the parts, so a part counts the same however large it is; `parts`
weighs them otherwise. `PseudoHuber` and `RMSE` take one norm of the whole row. Half-precision inputs are compared in
float32. `Timed` and `Total` make new ones of these: factors of time, and sums.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from rheos.core.base import Context, Premetric
from rheos.core.errors import OptionError, ShapeError, TimeError, check_choice
from rheos.core.state import State

__all__ = ["L1", "MSE", "RMSE", "Huber", "Perceptual", "PseudoHuber", "Timed", "Total", "premetric"]

Parts = Mapping[str, float] | None


@final
@dataclass(frozen=True)
class MSE(Premetric):
    r"""$\frac1n \lVert \hat y - y \rVert^2$ over the n elements of a row.

    Args:
        parts: Weight of each part of a dict state; None: the mean over parts.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> MSE()(x + 2, x, Context(x, torch.zeros(2)))
        tensor([4., 4.])
    """

    parts: Parts = None

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) mean squares."""
        return _mean(_gaps(prediction, target), torch.square, self.parts)


@final
@dataclass(frozen=True)
class L1(Premetric):
    r"""$\frac1n \lVert \hat y - y \rVert_1$ over the n elements of a row.

    Args:
        parts: Weight of each part of a dict state; None: the mean over parts.
    """

    parts: Parts = None

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) mean absolute values."""
        return _mean(_gaps(prediction, target), torch.abs, self.parts)


@final
@dataclass(frozen=True)
class Huber(Premetric):
    r"""Mean over elements of $d^2/2$ where $|d| \le \delta$, else $\delta(|d| - \delta/2)$.

    Args:
        delta: Where the parabola becomes a line, in the unit of an element; positive.
        parts: Weight of each part of a dict state; None: the mean over parts.
    """

    delta: float = 1.0
    parts: Parts = None

    def __post_init__(self) -> None:
        _positive("delta", self.delta)

    def _one(self, d: Tensor) -> Tensor:
        return functional.huber_loss(d, torch.zeros_like(d), reduction="none", delta=self.delta)

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) mean Huber losses."""
        return _mean(_gaps(prediction, target), self._one, self.parts)


@final
@dataclass(frozen=True)
class PseudoHuber(Premetric):
    r"""$\sqrt{\lVert \hat y - y \rVert^2 + c^2} - c$ of the whole row, not divided by its size.

    The norm of a row of n elements grows like $\sqrt n$, so c must as well to mean the same at another size:
    consistency training takes $c = 0.00054 \sqrt n$. Small differences d cost $\lVert d \rVert^2 / 2c$, large ones
    $\lVert d \rVert$. Training of rectified flows takes $c = 0.00054\,n$ and divides by n: `per_element`.

    Args:
        c: Positive.
        per_element: Whether c stands for $c\,n$, and the norm is divided by n.

    Reference: Improved Techniques for Training Consistency Models, Song & Dhariwal (2024), eq. 8; Improving the
    Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320 (per element).
    """

    c: float
    per_element: bool = False

    def __post_init__(self) -> None:
        _positive("c", self.c)

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) pseudo-Huber norms."""
        squared, n = _squared(prediction, target)
        c = self.c * n if self.per_element else self.c
        norm = squared / ((squared + c * c).sqrt() + c)  # free of cancellation
        return norm / n if self.per_element else norm


@final
@dataclass(frozen=True)
class RMSE(Premetric):
    r"""$\sqrt{\frac1n \lVert \hat y - y \rVert^2}$ of the whole row of n elements.

    Its gradient has the same length however small the difference is, and is zero at the target.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> RMSE()(x + 2, x, Context(x, torch.zeros(2)))
        tensor([2., 2.])
    """

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) root mean squares."""
        squared, n = _squared(prediction, target)
        positive = squared > 0  # the root has no slope at zero
        return torch.where(positive, torch.where(positive, squared, 1.0).div(n).sqrt(), 0.0)


@final
@dataclass(frozen=True, eq=False)
class Perceptual(Premetric):
    """Mean squared distance of the features of two data estimates, averaged over the feature layers.

    Args:
        features: A network that maps data rows to one tensor or a sequence of tensors, rows first. Freeze it.
        part: The part of a dict state to look at.

    Raises:
        ShapeError: For a dict state without `part`, or `part` with a tensor state.
    """

    features: Callable[[Tensor], Tensor | Sequence[Tensor]]
    part: str | None = None
    on = "data"

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) feature distances; no gradient flows into the target."""
        with torch.no_grad():
            want = self._layers(target)
        have = self._layers(prediction)
        gaps = {str(i): d for i, pair in enumerate(zip(have, want, strict=True)) for d in _gaps(*pair).values()}
        return _mean(gaps, torch.square, None)

    def _layers(self, x: State) -> Sequence[Tensor]:
        if isinstance(x, dict) != (self.part is not None) or (isinstance(x, dict) and self.part not in x):
            has = f"the parts {sorted(x)}" if isinstance(x, dict) else "no parts"
            raise ShapeError(
                f"Perceptual looks at part {self.part!r} of a state that has {has}. Set part to one of them."
            )
        y = self.features(x[self.part] if isinstance(x, dict) else x)  # type: ignore[index]
        return [y] if isinstance(y, Tensor) else y


@final
@dataclass(frozen=True)
class Timed(Premetric):
    r"""$t^p\,(1 - t)^q$ times a premetric.

    Args:
        metric: The premetric.
        data: p; positive: the noise end counts less.
        noise: q; negative: the data end counts more. Keep times away from 1 then, with a clipped law of times.

    Raises:
        OptionError: For a power that is not finite.
        TimeError: For a time of each variable, or where the factor is infinite.

    Example:
        >>> x, t = torch.zeros(2, 3), torch.tensor([0.5, 0.75])
        >>> Timed(MSE(), noise=-1.0)(x + 1, x, Context(x, t))
        tensor([2., 4.])
    """

    metric: Premetric
    data: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.data) and math.isfinite(self.noise)):
            raise OptionError(f"The powers of t and 1 - t must be finite, got {self.data} and {self.noise}.")
        object.__setattr__(self, "on", self.metric.on)

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) losses times their factors."""
        t = context.t
        if not isinstance(t, Tensor):
            raise TimeError("A factor of time needs one time a row, not one a variable.")
        poles = [end for end, power in ((0.0, self.data), (1.0, self.noise)) if power < 0]
        if t.device.type == "cpu" and any(bool((t == end).any()) for end in poles):
            raise TimeError(
                f"t^{self.data:g} (1 - t)^{self.noise:g} is infinite at an end of [0, 1], and a time is there. "
                "Draw times from a law that keeps away from it, such as UShape(clip=1e-5)."
            )
        losses = self.metric(prediction, target, context)
        return losses * (t.double() ** self.data * (1 - t.double()) ** self.noise).to(losses)


@final
@dataclass(frozen=True)
class Total(Premetric):
    """The sum of premetrics, of which some may look at predictions and some at data estimates.

    Args:
        terms: At least one; `Timed` gives them factors.

    Raises:
        OptionError: If there are none.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> Total((MSE(), L1()))(x + 2, x, Context(x, torch.zeros(2), x, x))
        tensor([6., 6.])
    """

    terms: tuple[Premetric, ...]
    on = "both"

    def __post_init__(self) -> None:
        if not self.terms:
            raise OptionError("A total needs at least one term.")

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) sums; terms on data estimates take these from the context.

        Raises:
            OptionError: If a term looks at data estimates and the context has none.
        """
        return torch.stack([self._term(m, prediction, target, context) for m in self.terms]).sum(0)

    def _term(self, metric: Premetric, prediction: State, target: State, context: Context) -> Tensor:
        if metric.on != "data":
            return metric(prediction, target, context)
        if context.data is None or context.target is None:
            raise OptionError(f"{type(metric).__name__} looks at data estimates, and the context has none.")
        return metric(context.data, context.target, context)


def _squared(prediction: State, target: State) -> tuple[Tensor, int]:
    """(B,) squared norms of the whole rows, and their number of elements."""
    gaps = _gaps(prediction, target).values()
    return torch.stack([d.square().sum(1) for d in gaps]).sum(0), sum(d.shape[1] for d in gaps)


def _gaps(prediction: State, target: State) -> dict[str, Tensor]:
    """Differences by part, each (B, n), in float32 or wider."""
    a, b = (x if isinstance(x, dict) else {"": x} for x in (prediction, target))
    if {n: v.shape for n, v in a.items()} != {n: v.shape for n, v in b.items()}:
        came, want = ({n: tuple(v.shape) for n, v in x.items()} for x in (a, b))
        raise ShapeError(f"Prediction and target differ in shape: {came.get('', came)} against {want.get('', want)}.")
    return {n: _wide(v).sub(_wide(b[n])).reshape(len(v), -1) for n, v in a.items()}


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mean(gaps: dict[str, Tensor], f: Callable[[Tensor], Tensor], parts: Parts) -> Tensor:
    if parts is None:
        means = [f(d).mean(1) for d in gaps.values()]
        return means[0] if len(means) == 1 else torch.stack(means).mean(0)
    if parts.keys() != gaps.keys():
        raise ShapeError(f"parts weighs {sorted(parts)}, the state has {sorted(gaps)}.")
    return torch.stack([f(d).mean(1) * parts[n] for n, d in gaps.items()]).sum(0)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise OptionError(f"{name} must be positive and finite, got {value}.")


def premetric(name: str | Premetric) -> Premetric:
    """A premetric by name, "mse" (or "l2"), "rmse", "l1" or "huber"; a `Premetric` passes through.

    Raises:
        UnknownOptionError: With near names.
        OptionError: For "pseudo-huber" and "perceptual", which need a constant or a network.

    Example:
        >>> premetric("mse")
        MSE(parts=None)
    """
    if isinstance(name, Premetric):
        return name
    needs = {
        "pseudo-huber": "a constant that fits the row's size: PseudoHuber(c=0.00054 * n**0.5)",
        "perceptual": "a feature network: Perceptual(features)",
    }
    if name in needs:
        raise OptionError(f"{name!r} needs {needs[name]}.")
    leaves: dict[str, type[Premetric]] = {"mse": MSE, "l2": MSE, "rmse": RMSE, "l1": L1, "huber": Huber}
    check_choice("premetric", name, leaves)
    return leaves[name]()
