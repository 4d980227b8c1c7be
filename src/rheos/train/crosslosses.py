r"""What trains the encoder of a source besides the flow: keep a density, and tell sources apart.

- KL, by default in its published form $-\frac12 (1 + \log\sigma^2 - (0.3\mu)^6 - \sigma^2)$: the sixth power is flat
  for $|\mu| \lesssim 3$ and a wall beyond, so that means may spread in a box. $\mu^2$ is the ordinary KL to N(0, I).
- Contrastive: symmetric InfoNCE between $\hat z_0 = z_0/\lVert z_0 \rVert$ and the normalised features of the target.
- Reconstruction: the mean squared error of the source decoded from $z_0$; the weaker alternative.

Reference: Flowing from Words to Pixels, Liu et al. (2025), https://arxiv.org/abs/2412.15213, section 3.2.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError, check_choice

__all__ = ["HOTTEST", "SourceLosses", "contrast", "kl"]

Form = Literal["box", "square"]

HOTTEST = math.log(100.0)
"""The largest logarithm of the contrastive scale."""


def kl(mean: Tensor, log_variance: Tensor, form: Form = "box") -> Tensor:
    r"""(B,): $-\frac12 (1 + \log\sigma^2 - m - \sigma^2)$, the mean over a row's numbers.

    Args:
        mean: $\mu$.
        log_variance: $\log \sigma^2$.
        form: "box": $m = (0.3\mu)^6$; "square": $m = \mu^2$, the KL to N(0, I).

    Example:
        >>> kl(torch.tensor([[2.0]]), torch.zeros(1, 1), "square")
        tensor([2.])
    """
    check_choice("form", form, ("box", "square"))
    penalty = (0.3 * mean).pow(6) if form == "box" else mean.square()
    return -0.5 * (1 + log_variance - penalty - log_variance.exp()).flatten(1).mean(1)


def contrast(latent: Tensor, features: Tensor, log_scale: Tensor, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE: (B,) losses, and (B,) whether a latent's nearest features are its own (or its group's).

    Args:
        latent: (B, ...).
        features: (B, D), with as many numbers as a latent has.
        log_scale: Logarithm of what cosines are multiplied by; learned, and cut at ln 100.
        group: (B,): rows with the same value are positives of each other, with equal shares. None: a row's own
            alone, so that the same caption twice in a batch counts as a negative.

    Raises:
        OptionError: With fewer than two rows: there is nothing to tell apart.
        ShapeError: If the sizes differ.
    """
    n = len(latent)
    if n < 2:
        raise OptionError("A contrastive loss needs at least two rows in a part of a batch. Use larger parts.")
    a, b = latent.flatten(1), features.flatten(1)
    if a.shape != b.shape:
        raise ShapeError(
            f"The tower gives {b.shape[1]} numbers, a latent has {a.shape[1]}. Build it with out={a.shape[1]}."
        )
    scores = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).mT
    scores = scores * log_scale.clamp(max=HOTTEST).exp()
    same = torch.eye(n, dtype=torch.bool, device=a.device) if group is None else group[:, None] == group
    share = same.to(scores) / same.sum(1, keepdim=True)
    rows = -0.5 * (share * (scores.log_softmax(1) + scores.mT.log_softmax(1))).sum(1)
    hit = same.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return rows, hit.to(rows)


@final
@dataclass(frozen=True)
class SourceLosses:
    """Weights of the encoder's own losses beside the flow's, which has one.

    Args:
        contrastive: Of the contrastive loss; 0 for none. It needs a tower.
        kl: Of the KL's mean over a latent's numbers, so that it means the same at another size. The published weight is
            1e-2 of the *sum*: see `paper`.
        form: Of the KL: "box" or "square".
        reconstruction: Of the reconstruction loss; 0 for none. It needs a decoder.
        positives: A column whose equal values make positives, such as "label"; None: each row's own target alone.

    Raises:
        OptionError: For a negative weight.

    Example:
        >>> SourceLosses.paper(4 * 32 * 32).kl
        40.96
    """

    contrastive: float = 1.0
    kl: float = 0.1
    form: Form = "box"
    reconstruction: float = 0.0
    positives: str | None = None

    def __post_init__(self) -> None:
        for name in ("contrastive", "kl", "reconstruction"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"The weight {name} must be 0 or positive, got {getattr(self, name)}.")
        check_choice("form", self.form, ("box", "square"))

    @classmethod
    def paper(cls, numbers: int) -> "SourceLosses":
        """The published weights, for latents of so many numbers."""
        return cls(contrastive=1.0, kl=1e-2 * numbers)
