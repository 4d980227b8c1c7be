r"""Paths with noise of their own: Brownian bridges, and tubes of constant width.

$x_t = (1 - t) x_0 + t x_1 + s_t \epsilon$ with $s_t = \sigma \sqrt{t (1 - t)}$ on a bridge and $\sigma$ in a tube. With
entropic pairs of $\varepsilon = 2 \sigma^2$ the flow of the bridge has the marginals of the Schrödinger bridge of
diffusion $\sigma$, and with the score of the same marginals beside it one samples the bridge itself,
$dx = (v + \tfrac{\sigma^2}{2} s)\, dt + \sigma\, dB$.

Reference: Simulation-free Schrödinger bridges via score and flow matching, Tong et al. (2024),
https://arxiv.org/abs/2307.03672
"""

import math
from dataclasses import dataclass
from typing import Literal, cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import Kind, Path, PathSample, Time
from rheos.core.scalars import Scalar
from rheos.core.state import State, add, affine, scale

__all__ = ["NoisyPath"]

EDGE = 1e-3
"""How near to its ends a bridge is asked for its velocity, which grows like the inverse root of the distance."""


@final
@dataclass(frozen=True)
class NoisyPath(Path):
    r"""Straight lines with noise around them.

    A head predicts the velocity, or the noise $\epsilon$, from which the score follows as $-\epsilon / s_t$. Velocity
    and score do not follow from each other, so a Schrödinger bridge takes two networks: see
    `rheos.sample.BridgeDrift`.

    Args:
        sigma: Size of the noise, positive.
        shape: "bridge" or "tube".

    Raises:
        OptionError: For a sigma that is not positive.
        UnknownOptionError: For another shape.

    Example:
        >>> import torch
        >>> path = NoisyPath(0.5)
        >>> path.sample(torch.zeros(1, 2), torch.ones(1, 2), 0.5, torch.ones(1, 2)).xt
        tensor([[0.7500, 0.7500]])
    """

    sigma: float
    shape: Literal["bridge", "tube"] = "bridge"

    noisy = True

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, ("bridge", "tube"))
        if not 0 < self.sigma < math.inf:
            raise OptionError(f"sigma must be positive and finite, got {self.sigma}. Without noise use AffinePath().")

    @property
    def finite(self) -> tuple[float, float]:
        """Short of both ends on a bridge."""
        return (EDGE, 1 - EDGE) if self.shape == "bridge" else (0.0, 1.0)

    def width(self, t: Scalar) -> Scalar:
        """s_t."""
        return self.sigma * sc.sqrt(t * (1 - t)) if self.shape == "bridge" else 0.0 * t + self.sigma

    def widening(self, t: Scalar) -> Scalar:
        """The derivative of s_t."""
        if self.shape == "tube":
            return 0.0 * t
        return sc.divide(self.sigma * (1 - 2 * t), 2 * sc.sqrt(t * (1 - t)))

    def sample(self, x0: State, x1: State, t: Time, noise: State | None = None) -> PathSample:
        r"""The point at t and its velocity $x_1 - x_0 + \dot s_t \epsilon$.

        Args:
            x0: Source.
            x1: Data.
            t: A float, (B,), or any prefix of the state's shape.
            noise: Standard normal numbers like x1.

        Raises:
            OptionError: If there is no noise, or a time by variable.
        """
        if noise is None:
            raise OptionError("This path has noise of its own: sample(x0, x1, t, noise) takes normal numbers like x1.")
        if isinstance(t, dict):
            raise OptionError("A noisy path takes one time a row, not one a variable.")
        middle = affine(1 - t, x0, t, x1)
        u = add(affine(-1.0, x0, 1.0, x1), self.widening(t), noise)
        return PathSample(add(middle, self.width(t), noise), u, x0, x1, t, noise)

    def target(self, sample: PathSample, kind: Kind) -> State:
        """The velocity, the noise, or the score of the point given its ends."""
        check_choice("kind on a noisy path", kind, ("velocity", "noise", "score"))
        if kind == "velocity":
            return sample.u
        noise = cast(State, sample.noise)
        return noise if kind == "noise" else scale(-sc.divide(1.0, self.width(cast(Scalar, sample.t))), noise)

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """Between noise and score.

        Raises:
            OptionError: Between a velocity and anything else: neither says enough of the other.
        """
        if src == dst:
            return value
        if {src, dst} != {"noise", "score"}:
            raise OptionError(f"On a noisy path {dst} does not follow from {src}. Train a second head for it.")
        width = self.width(cast("float | Tensor", t))
        return scale(-width if dst == "noise" else -sc.divide(1.0, width), value)
