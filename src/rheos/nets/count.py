"""Sizes and costs of networks."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["flops", "parameters"]


def parameters(module: nn.Module, trainable: bool = False) -> int:
    """The number of parameters, shared ones counted once.

    Args:
        module: Any module.
        trainable: Whether to leave frozen ones out.

    Example:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@torch.no_grad()
def flops(module: nn.Module, *inputs: object, **cond: object) -> int:
    """Floating-point operations of one forward pass: matrix products, convolutions and attention.

    A multiplication with its addition counts as two; pointwise operations and norms are left out.

    Args:
        module: Any module.
        *inputs: Example inputs.
        **cond: Example keyword inputs.

    Example:
        >>> flops(nn.Linear(3, 2), torch.zeros(5, 3))
        60
    """
    # torch's own table has the fused attention of accelerators, not that of CPUs
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: _attention}) as counter:
        module(*inputs, **cond)
    return int(counter.get_total_flops())


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    rows, heads, queries, width = query
    return 2 * rows * heads * queries * key[2] * (width + value[3])
