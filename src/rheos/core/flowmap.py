r"""Flow maps: networks that jump.

$X_{s \to t}(x) = x + (t - s)\, u(x, s, t)$ with the average velocity u. On the diagonal u is the velocity; the
residuals below vanish for the true map, and every few-step method drives one of them to zero.

Reference: MeanFlow, Geng et al. (2025), eq. 6; consistency trajectory models, Kim et al. (2024); flow map matching,
Boffi et al. (2024).
"""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core.errors import ConditionError, OptionError
from rheos.core.field import check_time
from rheos.core.paths import AffinePath, Path, Time
from rheos.core.query import Query, Reply
from rheos.core.state import expand

__all__ = ["FlowMap", "consistency", "ctm_average", "eulerian_target", "lagrangian_residual", "semigroup_residual"]

Average = Callable[..., Tensor]
"""u(x, s, t, **cond) with s and t of shape (B,)."""


class FlowMap(nn.Module):
    """A network of average velocities.

    Args:
        net: Called `net(x, s, t, **cond)` with s and t of shape (B,); returns u of x's shape.
        path: The path whose flow it learns.

    Example:
        >>> class Straight(nn.Module):
        ...     def forward(self, x, s, t):
        ...         return torch.ones_like(x)
        >>> FlowMap(Straight()).jump(torch.zeros(1, 2), 0.0, 0.5)
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, net: nn.Module, path: Path | str = "linear") -> None:
        super().__init__()
        self.net = net
        self.path: Path = AffinePath(path) if isinstance(path, str) else path
        self.conditions: frozenset[str] = frozenset(getattr(net, "conditions", ()))

    def forward(self, x: Tensor, s: Time, t: Time, **cond: Tensor) -> Tensor:
        """The average velocity between s and t of the flow through x at s.

        Raises:
            TimeError: For integer times, times outside [0, 1], or of another shape than () and (B,).
            ConditionError: For conditions that the network does not know.
        """
        unknown = sorted(cond.keys() - self.conditions)
        if unknown:
            raise ConditionError(
                f"Unknown condition {', '.join(unknown)}; this network takes: {sorted(self.conditions)}."
            )
        return cast(Tensor, self.net(x, _clock(s, x), _clock(t, x), **cond))

    def jump(self, x: Tensor, s: Time, t: Time, **cond: Tensor) -> Tensor:
        r"""$X_{s \to t}(x)$."""
        return x + expand(_clock(t, x) - _clock(s, x), x) * self.forward(x, s, t, **cond)

    def answer(self, q: Query) -> Reply:
        """The average over the query's span, or the velocity on the diagonal.

        Raises:
            OptionError: For other kinds.
        """
        if q.kind == "average":
            return Reply(self.forward(cast(Tensor, q.x), q.span[0], q.span[1], **q.cond))
        if q.kind == "velocity":
            return Reply(self.forward(cast(Tensor, q.x), q.t, q.t, **q.cond))
        raise OptionError(f"A flow map answers 'average' and 'velocity', not {q.kind!r}.")


def _clock(t: Time, x: Tensor) -> Tensor:
    if isinstance(t, dict):
        raise OptionError("A flow map has one time a row, not one a variable.")
    check_time(t, x)
    clock = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.as_tensor(t, dtype=clock, device=x.device).expand(x.shape[0])


def semigroup_residual(
    u: Average, x: Float[Tensor, "b *d"], s: Tensor, r: Tensor, t: Tensor, **cond: Tensor
) -> Float[Tensor, "b *d"]:
    r"""$X_{s \to t}(x) - X_{r \to t}(X_{s \to r}(x))$, divided by t - s."""
    direct = u(x, s, t, **cond)
    first = expand(r - s, x) * u(x, s, r, **cond)
    detour = first + expand(t - r, x) * u(x + first, r, t, **cond)
    return direct - detour / expand(t - s, x)


def eulerian_target(
    u: Average, v: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], s: Tensor, t: Tensor, **cond: Tensor
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
    r"""$(u,\; v + (t - s)(\partial_s u + \nabla_x u \cdot v))$: the value and the target that MeanFlow regresses on.

    One forward-mode pass with tangents (v, 1, 0); the caller detaches the target.

    Args:
        u: Average velocity.
        v: The velocity at (x, s).
        x: State at s.
        s: Start, (B,).
        t: End, (B,).
        **cond: Conditions.
    """
    value, slope = torch.func.jvp(  # type: ignore[misc]  # without has_aux it returns two
        lambda a, b, c: u(a, b, c, **cond), (x, s, t), (v, torch.ones_like(s), torch.zeros_like(t))
    )
    return value, v + expand(t - s, x) * slope


def lagrangian_residual(
    u: Average, velocity: Callable[..., Tensor], x: Float[Tensor, "b *d"], s: Tensor, t: Tensor, **cond: Tensor
) -> Float[Tensor, "b *d"]:
    r"""$u + (t - s) \partial_t u - v(X_{s \to t}(x), t)$."""
    value, slope = torch.func.jvp(  # type: ignore[misc]
        lambda c: u(x, s, c, **cond), (t,), (torch.ones_like(t),)
    )
    arrived: Tensor = x + expand(t - s, x) * value
    return cast(Tensor, value + expand(t - s, x) * slope - velocity(arrived, t, **cond))


def consistency(u: Average, x: Float[Tensor, "b *d"], s: Tensor, **cond: Tensor) -> Float[Tensor, "b *d"]:
    r"""$f(x, s) = X_{s \to 1}(x)$: a consistency model; f(x, 1) = x."""
    return x + expand(1 - s, x) * u(x, s, torch.ones_like(s), **cond)


def ctm_average(g: Float[Tensor, "b *d"], x: Float[Tensor, "b *d"], s: Tensor) -> Float[Tensor, "b *d"]:
    r"""The average velocity (g - x) / (1 - s) of CTM's g on the linear path, with g(x, s, s) the data estimate."""
    return (g - x) / expand(1 - s, x)
