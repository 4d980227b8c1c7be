r"""Time, label and embedding as one vector, which modulates every block of a network.

$c = \mathrm{silu}(W_2\,\mathrm{silu}(W_1 \phi(t)) + E_{\mathrm{label}} + W e)$ with the features
$\phi(t) = (\cos \omega_i t, \sin \omega_i t)$.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError

__all__ = ["Conditioning", "time_features"]

FASTEST = 256.0


def time_features(t: Float[Tensor, "b"], count: int, fastest: float = FASTEST) -> Float[Tensor, "b count"]:
    r"""Cosines and sines of $\omega_i t$, the frequencies geometric from 1 to `fastest` radians.

    Computed in the dtype of t, which is float32 or float64 whatever the network's dtype. Any real t will do, also
    the noise levels of EDM's preconditioning, which leave [0, 1].

    Args:
        t: Times.
        count: Number of features, even.
        fastest: Highest frequency, in radians per unit of time.

    Example:
        >>> time_features(torch.zeros(1), 4)
        tensor([[1., 1., 0., 0.]])
    """
    half = count // 2
    step = math.log(fastest) / max(half - 1, 1)
    omega = torch.arange(half, dtype=t.dtype, device=t.device).mul_(step).exp_()
    angle = t[:, None] * omega
    return torch.cat((angle.cos(), angle.sin()), 1)


class Conditioning(nn.Module):
    """Time, label and embedding to one vector a row, activated, ready for the blocks' modulations.

    Args:
        dim: Width of the vector.
        features: Number of sinusoidal time features, even; 0 leaves the time out.
        classes: Labels 0..classes - 1, and `classes` for null; 0 leaves labels out.
        embedding: Width of the embedding vector; 0 leaves it out.

    Raises:
        OptionError: If `features` is odd or negative, or there is nothing to condition on.

    Example:
        >>> Conditioning(8, classes=3)(torch.rand(2), label=torch.tensor([0, 3])).shape
        torch.Size([2, 8])
    """

    def __init__(self, dim: int, features: int = 64, classes: int = 0, embedding: int = 0) -> None:
        super().__init__()
        if features < 0 or features % 2:
            raise OptionError(f"The number of time features must be even (a cosine and a sine each), got {features}.")
        if not (features or classes or embedding):
            raise OptionError("Conditioning needs time features, classes or an embedding; all three are 0.")
        self.features = features
        self.time = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim)) if features else None
        self.label = nn.Embedding(classes + 1, dim) if classes else None
        self.embedding = nn.Linear(embedding, dim) if embedding else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(
        self,
        t: Float[Tensor, "b"],
        label: Int[Tensor, "b"] | None = None,
        embedding: Float[Tensor, "b _e"] | None = None,
    ) -> Float[Tensor, "b _c"]:
        """The conditioning vector, in the dtype of the weights.

        Args:
            t: Times, float32 or float64.
            label: int64; out of range raises IndexError on a CPU (elsewhere nothing is read back to check it).
            embedding: Cast to the dtype of the weights.
        """
        total: Tensor | None = None
        if self.time is not None:
            features = time_features(t, self.features)  # in the dtype of t; only then cast
            total = self.time(features.to(next(self.time.parameters()).dtype))
        if self.label is not None and label is not None:
            total = self.label(label) if total is None else total + self.label(label)
        if self.embedding is not None and embedding is not None:
            part = self.embedding(embedding.to(self.embedding.weight.dtype))
            total = part if total is None else total + part
        assert total is not None
        return functional.silu(total)
