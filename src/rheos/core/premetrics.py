r"""Premetrics: how far a prediction is from its target, one number a row.

The mean-type ones (`MSE`, `L1`, `Huber`) average over all elements of a row. For a dict state they average
each part over its own elements and then the parts, so a part counts the same however large it is; `parts`
weighs them otherwise. `PseudoHuber` takes one norm of the whole row. Half-precision inputs are compared in float32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from rheos.core.base import Context, Premetric
from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.state import State

__all__ = ["L1", "MSE", "Huber", "Perceptual", "PseudoHuber", "premetric"]

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
    $\lVert d \rVert$.

    Args:
        c: Positive.

    Reference: Improved Techniques for Training Consistency Models, Song & Dhariwal (2024), eq. 8.
    """

    c: float

    def __post_init__(self) -> None:
        _positive("c", self.c)

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) pseudo-Huber norms."""
        squared = torch.stack([d.square().sum(1) for d in _gaps(prediction, target).values()]).sum(0)
        return squared / ((squared + self.c * self.c).sqrt() + self.c)  # free of cancellation


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
    """A premetric by name, "mse" (or "l2"), "l1" or "huber"; a `Premetric` passes through.

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
    leaves: dict[str, type[Premetric]] = {"mse": MSE, "l2": MSE, "l1": L1, "huber": Huber}
    check_choice("premetric", name, leaves)
    return leaves[name]()
