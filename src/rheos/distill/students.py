r"""What students are made of: two networks in a row, and a difference of weights that moves over.

Reference: InstaFlow, Liu et al. (2024), https://arxiv.org/abs/2309.06380
"""

import copy
from collections.abc import Mapping
from typing import Any, cast, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rheos.core import config
from rheos.core.errors import OptionError, ShapeError
from rheos.core.field import Field
from rheos.nets.attention import Tap
from rheos.nets.base import Net

__all__ = ["StackedVelocity", "low_rank", "transfer"]


Part = nn.Module | Mapping[str, Any]
"""A network, or its description."""


@final
class StackedVelocity(Net):
    r"""Two networks in a row: $h = v_1(x, t)$, $v = h + g\,(v_2(x + h, t) - h)$ with a gate g that begins at 0.

    At the start it is the first network exactly. The second one sees x + h, the sample that one step from the noise
    would give, so a copy of the first is a good beginning. It adds capacity for a distillation.

    Args:
        first: A network, or its description (`core.config.dump`).
        second: Likewise; it takes the same conditions. A copy of the first unless given.

    Raises:
        OptionError: If the two take different conditions.

    Example:
        >>> from rheos.nets import MLP
        >>> one = MLP(2)
        >>> x, t = torch.randn(3, 2), torch.zeros(3)
        >>> torch.equal(StackedVelocity(one)(x, t), one(x, t))
        True
    """

    def __init__(
        self, first: nn.Module | Mapping[str, Any], second: nn.Module | Mapping[str, Any] | None = None
    ) -> None:
        one = _network(first)
        two = copy.deepcopy(one) if second is None else _network(second)
        super().__init__({"first": config.dump(one), "second": config.dump(two)})
        self.first, self.second = one, two
        self.gate = nn.Parameter(torch.zeros(()))
        self.conditions = frozenset(getattr(one, "conditions", ()))
        self.kept = frozenset(getattr(one, "kept", ()))
        self.exact_times = bool(getattr(one, "exact_times", False))
        if self.conditions != frozenset(getattr(two, "conditions", ())):
            raise OptionError(f"Both networks must take the conditions {sorted(self.conditions)}.")

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the first network; both see the taps."""
        return tuple(getattr(self.first, "attentions", ()))

    def null(self, name: str, rows: int) -> Tensor:
        """That of the first network."""
        return self.first.null(name, rows)  # type: ignore[operator, no-any-return]

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The velocity at (x, t); see `Net.forward`."""
        more: dict[str, Any] = {"taps": taps} if taps else {}
        h: Tensor = self.first(x, t, **cond, **more)
        v: Tensor = self.second(x + h, t, **cond, **more)
        return h + self.gate * (v - h)


def _network(net: Part) -> nn.Module:
    return net if isinstance(net, nn.Module) else cast(nn.Module, config.load(dict(net), expect=nn.Module, name="net"))


Weights = Mapping[str, Tensor] | nn.Module


@torch.no_grad()
def transfer(student: Field, custom: Weights, base: Weights, alpha: float = 1.0) -> Field:
    r"""A copy of a student with the weights $W + \alpha\,(W_{custom} - W_{base})$: a style of the base moves over.

    Args:
        student: Distilled from `base`.
        custom: The base model after fine-tuning, or its weights; names that only the base has count as unchanged.
        base: The model that the student began with, or its weights.
        alpha: How much of the difference; 0 gives the student itself.

    Raises:
        OptionError: If custom names weights that base or student have not.
        ShapeError: If a weight has another shape.

    Example:
        >>> from rheos.nets import MLP
        >>> student = Field(MLP(2))
        >>> moved = transfer(student, {"first.bias": torch.ones(64)}, {"first.bias": torch.zeros(64)}, alpha=0.5)
        >>> (moved.net.first.bias - student.net.first.bias).detach().mean()
        tensor(0.5000)
    """
    new, old = _weights(custom), _weights(base)
    copied = copy.deepcopy(student)
    own = copied.net.state_dict()
    for name, value in new.items():
        if name not in old or name not in own:
            where = "base model" if name not in old else "student"
            raise OptionError(f"The custom model has the weight {name!r}, which the {where} has not.", name=name)
        if not value.shape == old[name].shape == own[name].shape:
            shapes = tuple(tuple(w[name].shape) for w in (new, old, own))
            raise ShapeError(f"The weight {name!r} has shapes {shapes} in custom, base and student.", name=name)
        if alpha and own[name].is_floating_point():
            own[name].add_((value - old[name]).to(own[name]), alpha=alpha)
    return copied


def _weights(of: Weights) -> Mapping[str, Tensor]:
    if isinstance(of, Field):
        of = of.net
    return of.state_dict() if isinstance(of, nn.Module) else of


def low_rank(base: Weights, factors: Mapping[str, tuple[Tensor, Tensor]], scale: float = 1.0) -> dict[str, Tensor]:
    r"""The weights $W + s\,U D$ of a base model with LoRA factors, for `transfer`.

    Args:
        base: A model, or its weights.
        factors: By the weight's name, (D, U) of shapes (rank, in...) and (out, rank).
        scale: s, usually LoRA's alpha over the rank.

    Raises:
        OptionError: For a name that the base model has not.
        ShapeError: If a product has not the weight's size.
    """
    old = _weights(base)
    out: dict[str, Tensor] = {}
    for name, (down, up) in factors.items():
        if name not in old:
            raise OptionError(f"LoRA names the weight {name!r}, which the base model has not.", name=name)
        product = up.flatten(1) @ down.flatten(1)
        if product.numel() != old[name].numel():
            raise ShapeError(f"LoRA of {name!r} makes {tuple(product.shape)}, the weight is {tuple(old[name].shape)}.")
        out[name] = old[name] + scale * product.reshape(old[name].shape).to(old[name])
    return out
