"""A multilayer perceptron for vectors, or for anything that flattens to one."""

import math
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.nets.attention import Tap
from rheos.nets.base import Net
from rheos.nets.blocks import zeroed
from rheos.nets.conditioning import Conditioning
from rheos.nets.conditions import Conditions

__all__ = ["MLP"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU, "gelu": nn.GELU, "relu": nn.ReLU, "selu": nn.SELU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip


@final
class MLP(Net):
    """Dense layers on (x, time, conditions).

    Plain: `depth` hidden layers; time and conditions join x at the input. Residual: `depth` pre-norm blocks, which
    label, embedding and time features modulate (scale and shift); a raw time still joins x at the input.

    Args:
        dim: Numbers in one sample; x is (B, dim) or any (B, ...) with as many.
        hidden: Width of the hidden layers.
        depth: Hidden layers, or residual blocks, at least 1.
        activation: "selu", "silu", "gelu", "relu", "elu" or "tanh".
        residual: Whether to build residual blocks.
        time_features: Sinusoidal features of t, even; 0 feeds t itself as one input.
        classes: Labels 0..classes - 1 and the null label `classes`; 0 for none.
        embedding: Width of the `embedding` condition; 0 for none.

    Raises:
        OptionError: If a size is not positive, or the number of time features is odd.
        UnknownOptionError: If the activation is unknown.

    Example:
        >>> net = MLP(2, classes=10)
        >>> net(torch.zeros(5, 2), torch.rand(5), label=net.null("label", 5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        depth: int = 3,
        activation: str = "selu",
        *,
        residual: bool = False,
        time_features: int = 0,
        classes: int = 0,
        embedding: int = 0,
    ) -> None:
        super().__init__(
            {
                "dim": dim,
                "hidden": hidden,
                "depth": depth,
                "activation": activation,
                "residual": residual,
                "time_features": time_features,
                "classes": classes,
                "embedding": embedding,
            },
            Conditions(classes=classes, embedding=embedding),
        )
        check_choice("activation", activation, _ACTIVATIONS)
        if min(dim, hidden, depth) < 1:
            raise OptionError(f"dim, hidden and depth must be at least 1, got {dim}, {hidden} and {depth}.")
        self.dim, self.raw_time, self.residual = dim, time_features == 0, residual
        conditioned = bool(time_features or classes or embedding)
        self.conditioning = Conditioning(hidden, time_features, classes, embedding) if conditioned else None
        act, width = _ACTIVATIONS[activation], hidden if conditioned else 0
        self.first = nn.Linear(dim + self.raw_time + (0 if residual else width), hidden)
        if residual:
            blocks: list[nn.Module] = [_Block(hidden, act, conditioned) for _ in range(depth)]
            self.blocks = nn.ModuleList(blocks)
            self.last = nn.Sequential(nn.LayerNorm(hidden), act(), nn.Linear(hidden, dim))
        else:
            layers: list[nn.Module] = [act()]
            for _ in range(depth - 1):
                layers += [nn.Linear(hidden, hidden), act()]
            self.last = nn.Sequential(*layers, nn.Linear(hidden, dim))

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_d"]:
        """The prediction at (x, t); see `Net.forward`.

        Raises:
            ShapeError: If a sample has not `dim` numbers.
        """
        self.check(x, t, cond)
        shape = x.shape
        if x.ndim != 2:
            x = x.reshape(shape[0], -1)
        if x.shape[1] != self.dim:
            raise ShapeError(
                f"This MLP was made for samples of {self.dim} numbers, got {tuple(shape[1:])}. "
                f"Build it with dim={math.prod(shape[1:])}."
            )
        c = self.conditioning(t, **cond) if self.conditioning is not None else None
        h = self._enter(x, t, None if self.residual else c)
        if self.residual:
            for block in self.blocks:
                h = block(h, c)
        out: Tensor = self.last(h)
        return out if len(shape) == 2 else out.reshape(shape)

    def _enter(self, x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        """The first layer; where x has fewer digits than t, it runs in the dtype of t, so that no time is rounded."""
        parts = [x] if c is None else [x, c]
        if not self.raw_time:
            return self.first(parts[0] if c is None else torch.cat(parts, 1))  # type: ignore[no-any-return]
        clock = t[:, None]
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                inputs = torch.cat(
                    (*(p.to(self.first.weight.dtype) for p in parts), clock.to(self.first.weight.dtype)), 1
                )
                return self.first(inputs)  # type: ignore[no-any-return]
        if x.dtype == t.dtype or x.dtype == torch.float64:
            return self.first(torch.cat((*parts, clock.to(x.dtype)), 1))  # type: ignore[no-any-return]
        inputs = torch.cat((*(p.to(t.dtype) for p in parts), clock), 1)
        return functional.linear(inputs, self.first.weight.to(t.dtype), self.first.bias.to(t.dtype)).to(x.dtype)


class _Block(nn.Module):
    """h + W2 act(modulate(norm(W1 act(norm(h))))): pre-norm residual, zero at the start."""

    def __init__(self, width: int, act: type[nn.Module], conditioned: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), act(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.modulation = nn.Linear(width, 2 * width) if conditioned else None
        self.outer = nn.Sequential(act(), zeroed(nn.Linear(width, width)))

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        inner = self.norm(self.inner(h))
        if self.modulation is not None:
            scale, shift = self.modulation(c).chunk(2, 1)
            inner = torch.addcmul(shift, inner, scale + 1)
        return h + self.outer(inner)  # type: ignore[no-any-return]
