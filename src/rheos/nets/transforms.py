"""Whether a `torch.func` transform is running: several fast kernels have no derivative there."""

import torch
from torch.autograd import forward_ad

__all__ = ["transformed"]


def transformed() -> bool:
    """Whether forward-mode differentiation, or a transform such as jvp, grad or vmap, is running.

    A fact about the present call, not about a tensor: under nested transforms a tensor shows its outermost wrapper
    only. `torch.compile` traces it, and guards on it.

    Example:
        >>> transformed(), torch.func.jvp(lambda x: x * transformed(), (torch.ones(1),), (torch.ones(1),))[0].item()
        (False, 1.0)
    """
    return bool(forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None)
