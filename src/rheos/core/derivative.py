r"""The derivative of a prediction along a flow, and a gradient put in by hand.

$\frac{d}{dt} f(x_t, t) = \partial_t f + (v \cdot \nabla_x) f$ along $dx/dt = v$, by forward-mode differentiation or by
a finite difference. MeanFlow and its relatives, and distillation of the transport to the data, are written with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.errors import OptionError, TimeError, check_choice
from rheos.core.state import expand, flat_rows

__all__ = ["Derivative", "inject_gradient", "material_derivative"]

Function = Callable[[Tensor, Tensor], Tensor]
"""f(x, t) with t of shape (B,)."""

Normalize = Literal["none", "unit", "rms"]


@final
@dataclass(frozen=True)
class Derivative:
    """How the derivative is taken.

    Args:
        mode: "jvp", exact, about the cost of two calls; or "fd", one call more than f itself, and no transform.
        delta: The step of a finite difference, in (0, 1).
        normalize: "unit" divides by the norm of the row plus 0.1, as MDT-dist's code does; it is not free of scale, and
            "rms" multiplies back by the root of the number of elements. "none" leaves it alone.

    Raises:
        OptionError: For a delta outside (0, 1).
        UnknownOptionError: For an unknown mode or normalisation.

    Example:
        >>> x, t = torch.ones(2, 1), torch.tensor([0.0, 0.5])
        >>> Derivative()(lambda x, t: x * t[:, None], x, t, 3 * x)
        tensor([[1.0000],
                [2.5000]])
    """

    mode: Literal["jvp", "fd"] = "jvp"
    delta: float = 0.01
    normalize: Normalize = "none"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("jvp", "fd"))
        check_choice("normalize", self.normalize, ("none", "unit", "rms"))
        if not 0 < self.delta < 1:
            raise OptionError(f"delta must lie in (0, 1), got {self.delta}.")

    def __call__(
        self,
        f: Function,
        x: Float[Tensor, "b *d"],
        t: Tensor,
        v: Float[Tensor, "b *d"],
        *,
        value: Tensor | None = None,
        end: Tensor | float = 1.0,
    ) -> Float[Tensor, "b *d"]:
        """The derivative of f at (x, t), without gradient; see `material_derivative`."""
        slope = material_derivative(f, x, t, v, self.delta if self.mode == "fd" else None, value=value, end=end)
        return slope if self.normalize == "none" else _normalized(slope, self.normalize)


def material_derivative(
    f: Function,
    x: Float[Tensor, "b *d"],
    t: Tensor,
    v: Float[Tensor, "b *d"],
    delta: float | None = None,
    *,
    value: Tensor | None = None,
    end: Tensor | float = 1.0,
) -> Float[Tensor, "b *d"]:
    r"""$\partial_t f + (v \cdot \nabla_x) f$ at (x, t); no graph is kept.

    Args:
        f: Called with x and t of shape (B,).
        x: State.
        t: Times, (B,).
        v: The velocity at (x, t).
        delta: None: forward mode, exact; else $(f(x + \delta v, t + \delta) - f(x, t)) / \delta$.
        value: f(x, t) if it is known, which saves a finite difference a call.
        end: The latest time that f may see. A finite difference refuses to step beyond a number; it is shortened to
            stay below times a row, (B,), and where these leave no room the derivative is zero.

    Raises:
        OptionError: If the network has no forward mode, is wrapped for several processes, or x is in a short type.
        TimeError: For a finite difference that steps beyond the end.

    Example:
        >>> x, t = torch.ones(1, 1), torch.tensor([0.5])
        >>> material_derivative(lambda x, t: x * t[:, None], x, t, 3 * x, 0.1).round(decimals=4)
        tensor([[2.8000]])
    """
    with torch.no_grad():
        return _forward(f, x, t, v) if delta is None else _difference(f, x, t, v, delta, value, end)


def _forward(f: Function, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
    try:
        return cast(Tensor, torch.func.jvp(f, (x, t), (v.to(x.dtype), torch.ones_like(t)))[1])
    except NotImplementedError as error:
        raise OptionError(
            f"The network has an operation without a forward-mode derivative ({str(error).splitlines()[0]}). "
            "Fused attention is the usual one: take target='split' or a finite difference, or run the training inside "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        ) from error


def _difference(
    f: Function, x: Tensor, t: Tensor, v: Tensor, delta: float, value: Tensor | None, end: Tensor | float
) -> Tensor:
    kind = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
    if kind == torch.bfloat16 or (kind == torch.float16 and delta < 1e-3):
        raise OptionError(
            f"A finite difference with delta={delta:g} cancels in {str(kind).removeprefix('torch.')}. "
            "Use precision='fp32', or target='split'."
        )
    if isinstance(end, Tensor):
        step = (end - t).clamp(min=0.0, max=delta)
    else:
        if t.device.type == "cpu" and bool((t + delta > end + 1e-9).any()):
            raise TimeError(
                f"A finite difference of {delta:g} steps beyond {end:g} from t = {float(t.max()):g}. Keep times below."
            )
        step = torch.full_like(t, delta)
    if value is None:
        value = f(x, t)
    ahead = f(torch.addcmul(x, v.to(x.dtype), _as(step, x)), (t + step).clamp(max=1.0))
    return (ahead - value) / _as(torch.where(step > 0, step, 1.0), x)


def _as(step: Tensor, x: Tensor) -> Tensor:
    factor = expand(step, x)
    assert isinstance(factor, Tensor)
    return factor


def _normalized(slope: Tensor, how: Normalize) -> Tensor:
    flat = flat_rows(slope)
    norm = flat.norm(dim=1, keepdim=True) + 0.1
    scale = flat.shape[1] ** 0.5 if how == "rms" else 1.0
    scaled: Tensor = flat * (scale / norm)
    return scaled.reshape(slope.shape)


def inject_gradient(x: Float[Tensor, "b *d"], g: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    r"""$\lVert x - \mathrm{sg}(x - g) \rVert^2 / n$: its gradient in x is $2 g / n$, that of a mean squared error.

    Distillation by scores has a gradient and no loss; this is the loss that has the gradient.

    Args:
        x: What the gradient is for.
        g: The gradient; nothing flows into it.

    Example:
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> inject_gradient(x, torch.tensor([[1.0, -2.0]])).sum().backward()
        >>> x.grad
        tensor([[ 1., -2.]])
    """
    return flat_rows(x - (x - g).detach()).square().mean(1)
