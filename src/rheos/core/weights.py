r"""Loss weights by noise level, and the factors between losses on different kinds of prediction.

On an affine path every kind is an affine image of every other, `dst = c_x x + c_v src` with one c_v a time, so
squared errors are proportional: $\lVert \hat v - v \rVert^2 = (D/\sigma)^2 \lVert \hat x_1 - x_1 \rVert^2
= (D/\alpha)^2 \lVert \hat x_0 - x_0 \rVert^2 = (\sigma D/\alpha)^2 \lVert \hat s - s \rVert^2$ with
$D = \dot\alpha\sigma - \alpha\dot\sigma$. A weight is defined for the squared error of one kind, `on`; `factor`
carries it to the kind that the loss is formed on. Times lie inside (0, 1): at an end a factor may be infinite.

Reference: The Principles of Diffusion Models, Lai et al. (2025), https://arxiv.org/abs/2510.21890
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import KINDS, AffinePath, Kind, Path
from rheos.core.scalars import Scalar

__all__ = ["SNR", "EDMWeight", "Likelihood", "Matched", "MinSNR", "One", "Sigmoid", "Weight", "matched", "weight"]

Times = Tensor | dict[str, Tensor]


class Weight(ABC):
    """A positive factor of a row's loss, by its time."""

    on: Kind | None = None
    """The kind whose squared error the factor multiplies; None: whichever the loss is formed on."""

    @abstractmethod
    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor of the squared error of the kind `on`, float64, of the shape of t."""

    def factor(self, t: Times, path: Path, kind: Kind) -> Tensor:
        """The factor of the squared error of `kind` that makes the same loss.

        Args:
            t: Times inside (0, 1); a dict, one time a variable, only where the factor does not depend on it.
            path: An `AffinePath`, unless the factor does not depend on it.
            kind: What the loss is formed on.

        Raises:
            OptionError: If the path is not affine, or there is more than one time a row.
        """
        value = self(t, path)
        return value if self.on is None or self.on == kind else value * _ratio(t, path, self.on, kind)


@final
@dataclass(frozen=True)
class One(Weight):
    """No weight."""

    def __call__(self, t: Times, path: Path) -> Tensor:
        """Ones."""
        return torch.ones_like(t if isinstance(t, Tensor) else next(iter(t.values())), dtype=torch.float64)


@final
@dataclass(frozen=True)
class Matched(Weight):
    """Makes the mean square of kind `dst` equal to the mean square of kind `src`.

    Args:
        src: The kind whose loss is wanted.
        dst: The kind the loss is formed on.

    Example:
        >>> matched("velocity", "data")(torch.tensor([0.5, 0.75]), AffinePath("linear"))
        tensor([ 4., 16.], dtype=torch.float64)
    """

    src: Kind
    dst: Kind

    def __post_init__(self) -> None:
        check_choice("src", self.src, KINDS)
        check_choice("dst", self.dst, KINDS)

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the mean square of `dst`."""
        return _ratio(t, path, self.src, self.dst)


def matched(src: Kind, dst: Kind) -> Matched:
    """The factor that makes a loss on kind `dst` equal to the mean square of kind `src`."""
    return Matched(src, dst)


@final
@dataclass(frozen=True)
class SNR(Weight):
    r"""$\alpha^2/\sigma^2$ on the data estimate: the plain loss on the noise."""

    on = "data"

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the data estimate."""
        return _snr(t, path)


@final
@dataclass(frozen=True)
class MinSNR(Weight):
    r"""$\min(\alpha^2/\sigma^2, \gamma)$ on the data estimate.

    Args:
        gamma: Cap, positive.

    Reference: Efficient Diffusion Training via Min-SNR Weighting, Hang et al. (2023), https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0
    on = "data"

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise OptionError(f"gamma must be positive, got {self.gamma}.")

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the data estimate."""
        return _snr(t, path).clamp(max=self.gamma)


@final
@dataclass(frozen=True)
class EDMWeight(Weight):
    r"""$(\tilde\sigma^2 + \sigma_d^2) / (\tilde\sigma \sigma_d)^2$ on the data, with $\tilde\sigma = \sigma/\alpha$.

    This is the plain loss on the kind "edm"; the path knows $\sigma_d$.

    Reference: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
    """

    on = "data"

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the data estimate."""
        return _snr(t, path) + _level(t, path)[1].sigma_data ** -2


@final
@dataclass(frozen=True)
class Likelihood(Weight):
    r"""$\dot\lambda$ on the noise estimate, that is $\frac12 \frac{d}{dt}\mathrm{SNR}$ on the data estimate: the ELBO.

    With uniform t and `MSE` the loss is the evidence bound's diffusion term in nats per dimension, up to a factor
    of one half and a constant.

    Reference: Variational Diffusion Models, Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """

    on = "noise"

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the noise estimate."""
        return _slope(t, path)


@final
@dataclass(frozen=True)
class Sigmoid(Weight):
    r"""`Likelihood` times $\mathrm{sigmoid}(b - \ln \mathrm{SNR})$: bits that the eye does not see weigh less.

    Args:
        b: Where the weight falls to one half, in ln SNR = 2 lambda.

    Reference: Understanding Diffusion Objectives as the ELBO, Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
    """

    b: float = 0.0
    on = "noise"

    def __post_init__(self) -> None:
        if not abs(self.b) < float("inf"):
            raise OptionError(f"b must be finite, got {self.b}.")

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the noise estimate."""
        s, affine = _level(t, path)
        return sc.sigmoid(self.b - 2 * affine.law.lam(s)) * _slope(t, path)  # ln SNR = 2 lambda


def _level(t: Times, path: Path) -> tuple[Tensor, AffinePath]:
    """Float64 times and their path, where a row has one noise level."""
    if not isinstance(path, AffinePath) or not isinstance(t, Tensor):
        came = type(path).__name__ if isinstance(t, Tensor) else f"times by variable, {sorted(t)}"
        raise OptionError(
            f"Weights by noise level need an AffinePath and one time a row, got {came}. Use weight='one'."
        )
    return t.double(), path


def _snr(t: Times, path: Path) -> Tensor:
    s, affine = _level(t, path)
    return _tensor(sc.divide(affine.law.alpha(s), affine.law.sigma(s)) ** 2, s)


def _slope(t: Times, path: Path) -> Tensor:
    """The slope lambda' = D / (alpha sigma)."""
    s, affine = _level(t, path)
    return _tensor(sc.divide(affine.law.wronskian(s), affine.law.alpha(s) * affine.law.sigma(s)), s)


def _ratio(t: Times, path: Path, src: Kind, dst: Kind) -> Tensor:
    """|error of src|^2 / |error of dst|^2: the square of c_v in src = c_x x + c_v dst."""
    s, affine = _level(t, path)
    return _tensor(affine.coefficients(s, dst, src)[1], s).square()


def _tensor(value: Scalar, t: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=t.device).expand(t.shape)


def weight(name: str | Weight) -> Weight:
    """A weight by name with its usual constants; a `Weight` passes through.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> weight("min-snr")
        MinSNR(gamma=5.0)
    """
    if isinstance(name, Weight):
        return name
    leaves: dict[str, type[Weight]] = {
        "one": One,
        "snr": SNR,
        "min-snr": MinSNR,
        "edm": EDMWeight,
        "likelihood": Likelihood,
        "sigmoid": Sigmoid,
    }
    check_choice("weight", name, leaves)
    return leaves[name]()
