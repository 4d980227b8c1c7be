"""One row of a table of quality: every figure with its counts and its feature net."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

from jaxtyping import Shaped
from torch import Tensor

from rheos.metrics.features import FeatureExtractor
from rheos.metrics.features import features as feature_net
from rheos.metrics.gaussian import frechet
from rheos.metrics.jackknife import standard_error
from rheos.metrics.kernels import kernel_distance
from rheos.metrics.neighbours import prdc

__all__ = ["Quality", "quality"]


@final
@dataclass(frozen=True)
class Quality:
    """Figures of one set of samples, and what makes them comparable.

    Args:
        frechet: Fréchet distance of the features; smaller is better.
        frechet_error: Its standard error over draws of both sets, or None if not asked for.
        kernel: Unbiased kernel distance of the features; smaller is better, near 0 for equal laws.
        precision: Fakes inside the real manifold; larger is better.
        recall: Reals inside the fake manifold; larger is better.
        density: Real balls around a fake, over k; larger is better, 1 for equal laws.
        coverage: Real balls with a fake in them; larger is better.
        recognised: Fraction of fakes recognised as their label, or None without labels.
        fake: Number of fake rows.
        real: Number of real rows.
        k: Neighbours of the manifolds.
        features: The feature net.
    """

    frechet: float
    frechet_error: float | None
    kernel: float
    precision: float
    recall: float
    density: float
    coverage: float
    recognised: float | None
    fake: int
    real: int
    k: int
    features: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @property
    def caption(self) -> str:
        """What must stand beside the figures: counts, neighbours, feature net."""
        return f"{self.fake} fake and {self.real} real rows, k = {self.k}, features of {self.features}"


def quality(
    fake: Shaped[Tensor, "_n *_d"],
    real: Shaped[Tensor, "_m *_d2"],
    features: FeatureExtractor | str | Callable[..., Any],
    k: int = 5,
    label: Shaped[Tensor, " _n2"] | None = None,
    groups: int = 20,
) -> Quality:
    """All figures of fake against real samples in the features of one net.

    The floor is not 0: `quality(held_out, train, features)` says what perfect samples would get at these counts.

    Args:
        fake: Samples (N, ...), N > k.
        real: Real rows (M, ...), M > k, best of the split that the feature net did not see.
        features: Name of a shipped feature net, a `FeatureExtractor`, or a callable x → (N, D).
        k: Neighbours of precision, recall, density and coverage.
        label: int64 (N,), what each fake was asked to be; then `recognised` is measured.
        groups: Of the jackknife behind `frechet_error`; 0 leaves it out (it costs 2 groups Fréchet distances).

    Raises:
        ShapeError: Too few rows, or pictures that the net does not see.
        OptionError: k below 1, or labels with a net that has no classes.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> figures = quality(x, x, lambda x: x, groups=0)
        >>> figures.precision, figures.coverage, figures.caption
        (1.0, 1.0, '60 fake and 60 real rows, k = 5, features of <lambda>')
    """
    net = feature_net(features)
    recognised = None if label is None else net.accuracy(fake, label)
    a, b = net.features(fake), net.features(real)
    near = prdc(real=b, fake=a, k=k)
    return Quality(
        frechet=frechet(a, b),
        frechet_error=standard_error(frechet, a, b, groups).error if groups else None,
        kernel=kernel_distance(a, b),
        precision=near.precision,
        recall=near.recall,
        density=near.density,
        coverage=near.coverage,
        recognised=recognised,
        fake=len(fake),
        real=len(real),
        k=k,
        features=net.name,
    )
