r"""One network, four things to predict, one loss: part (b) of the claim `principles`.

Velocity, data, noise and EDM's output are affine images of each other, so their squared errors are proportional, and
one loss can be written on each of them. The loss here is $\alpha^2 \lVert \hat x_1 - x_1 \rVert^2 = \sigma^2 \lVert
\hat x_0 - x_0 \rVert^2$: the error of splitting $x_t$ into signal and noise, in the units of $x_t$. Its factor is
bounded on every head. A plain loss on the velocity is not such a choice: at uniform times its factor on the data
estimate, $1/(1-t)^2$, has no finite mean.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.paths import AffinePath, Kind, Path
from rheos.core.weights import Times, Weight
from rheos.data import Data
from rheos.nets import EDM, MLP, time_features
from rheos.train import Options, fit

__all__ = ["HEADS", "Gated", "Split", "train_head"]

HEADS: tuple[Kind, ...] = ("velocity", "data", "noise", "edm")
FEATURES = 64


@final
@dataclass(frozen=True)
class Split(Weight):
    r"""$\alpha^2$ on the data estimate, that is $\sigma^2$ on the noise estimate."""

    on = "data"

    def __call__(self, t: Times, path: Path) -> Tensor:
        """The factor on the data estimate, float64."""
        assert isinstance(path, AffinePath)
        assert isinstance(t, Tensor)
        return torch.as_tensor(path.law.alpha(t.double())).square()


@final
class Gated(nn.Module):
    """A residual network, g(t) x + F(x, t): the gate, zero at first, lets any head copy its input where it must.

    The noise is x at t = 0 and the data is x at t = 1; a network that has to push x through its layers to say so makes
    an error there that sampling divides by t.

    Args:
        dim: Numbers in a sample.
        hidden: Width of the layers.
        sigma_data: With a value, EDM's input scaling and noise level on the linear path.
    """

    def __init__(self, dim: int, hidden: int, sigma_data: float | None = None) -> None:
        super().__init__()
        inner = MLP(dim, hidden, 2, "silu", residual=True, time_features=FEATURES)
        self.net = inner if sigma_data is None else EDM(inner, "linear", sigma_data)
        self.gate = nn.Linear(FEATURES, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.conditions: frozenset[str] = frozenset()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction at (x, t)."""
        gate = self.gate(time_features(t, FEATURES).to(x.dtype))
        out: Tensor = self.net(x, t)
        copied: Tensor = gate.reshape(-1, *(1,) * (x.ndim - 1)) * x
        return out + copied


def train_head(data: Data, kind: Kind, steps: int, seed: int, hidden: int = 160) -> Field:
    """A flow whose network predicts `kind`, trained on the common loss.

    Args:
        data: Without conditions.
        kind: What the network predicts.
        steps: Optimiser steps.
        seed: Of weights, batches, noise and times: the same for every kind.
        hidden: Width of the layers.
    """
    every = data.batch(torch.arange(len(data))).x
    sigma_data = float(every.std())
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = Gated(every[0].numel(), hidden, sigma_data if kind == "edm" else None)
    field = Field(net, AffinePath("linear", sigma_data=sigma_data), kind)
    options = Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=max(steps, 1))
    return fit(field, FlowMatching(weight=Split()), data, steps=steps, options=options, progress=False).field
