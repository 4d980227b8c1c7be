"""How well a flow map agrees with itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.errors import OptionError, TimeError
from rheos.core.field import Field
from rheos.core.flowmap import FlowMapField

__all__ = ["flow_map_consistency"]


@torch.no_grad()
def flow_map_consistency(
    field: Field, x: Float[Tensor, "b *d"], times: tuple[float, float, float] = (0.0, 0.5, 1.0), **cond: Tensor
) -> float:
    r"""$E\lVert X_{m \to t}(X_{s \to m}(x)) - X_{s \to t}(x) \rVert^2 / E\lVert X_{s \to t}(x) - x \rVert^2$.

    Zero where two jumps are one, as on the true map; it says nothing about whether the map is the right one. Smaller is
    better.

    Args:
        field: A flow map.
        x: States at s: noise for s = 0.
        times: s < m < t in [0, 1].
        **cond: The field's conditions.

    Raises:
        OptionError: For a field that is no flow map.
        TimeError: For times that do not increase.

    Example:
        >>> class Straight(torch.nn.Module):
        ...     def forward(self, x, s, t):
        ...         return torch.ones_like(x)
        >>> flow_map_consistency(FlowMapField(Straight()), torch.zeros(2, 3))
        0.0
    """
    if not isinstance(field, FlowMapField):
        raise OptionError(f"A {type(field).__name__} has no jumps between inner times; a FlowMapField is wanted.")
    s, m, t = times
    if not s < m < t:
        raise TimeError(f"times must increase, got {times}.")
    whole = torch.as_tensor(field.jump(x, s, t, **cond))
    detour = torch.as_tensor(field.jump(field.jump(x, s, m, **cond), m, t, **cond))
    gap, length = (detour - whole).double().square().sum(), (whole - x).double().square().sum()
    return float(gap / length) if float(length) else float(gap)
