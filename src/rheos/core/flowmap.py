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

from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError, TimeError
from rheos.core.field import Field, check_time
from rheos.core.paths import AffinePath, Kind, Path, Time
from rheos.core.query import Query, Reply
from rheos.core.state import State, add, dtype_of, expand, like, rows

__all__ = [
    "FlowMap",
    "FlowMapField",
    "TransportField",
    "consistency",
    "ctm_average",
    "eulerian_target",
    "lagrangian_residual",
    "semigroup_residual",
]

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


class _FewStep(Field):
    """What fields have in common that are sampled in a few jumps.

    Args:
        net: See the subclass.
        path: Whose flow it learns, or the name of a schedule.
        predicts: The kind of the network's output; the average velocity is made of it as a velocity is.
        shift: Of the grids that it is sampled on.
        gaussian: Whether x0 ~ N(0, I) independently of x1.
        shape: One sample's shape; training fills it in.
        value_range: Lowest and highest value of the data; training fills it in.
        baked: Scale of the guidance that its weights hold.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path | str = "linear",
        predicts: Kind = "velocity",
        *,
        shift: float = 1.0,
        gaussian: bool = True,
        shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        baked: float = 1.0,
    ) -> None:
        super().__init__(net, path, predicts, shift=shift, gaussian=gaussian, shape=shape, value_range=value_range)
        if not self.path.flat:
            raise OptionError(f"{type(self).__name__} jumps along straight lines and needs a flat space.")
        self.baked = baked

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for `core.config`."""
        names = ("net", "path", "predicts", "shift", "gaussian", "shape", "value_range", "baked")
        return {name: getattr(self, name) for name in names}

    def _asked(self, x: State, cond: Cond) -> tuple[State, Cond]:
        """State and conditions as the network takes them."""
        cond = cond if cond.keys() == self.conditions else self.complete(cond, rows(x))
        return (like(x, self._dtype) if self._dtype is not None and dtype_of(x) != self._dtype else x), cond

    def _formed(self, value: State, x: State, t: Time, kind: Kind) -> State:
        """What the network said, in the dtype of x, as a prediction of another kind."""
        value = value if dtype_of(value) == dtype_of(x) else like(value, dtype_of(x))
        return value if kind == self.predicts else self.path.convert(value, x, t, self.predicts, kind)


class FlowMapField(_FewStep):
    r"""A flow map as a field: it trains in `fit`, and `draw` samples it in any number of jumps.

    The network has two times. As a field it is the velocity, u(x, t, t); `average` and `jump` are the map.

    Args:
        net: Called `net(x, s, t, **cond)` with s <= t of shape (B,); `rheos.nets.TwoTimeAdapter` makes one of a network
            with one time. It may have a method `velocity(x, s, **cond)`, a head of its own for the velocity.
        path: Whose flow it learns, or the name of a schedule.
        predicts: The kind of the network's output; u is made of it, at s, as a velocity is. With "data" it is CTM's g.
        shift: Of the grids that it is sampled on.
        gaussian: Whether x0 ~ N(0, I) independently of x1.
        shape: One sample's shape; training fills it in.
        value_range: Lowest and highest value of the data; training fills it in.
        baked: Scale of the guidance that its weights hold.

    Raises:
        OptionError: For a curved space.

    Example:
        >>> class Straight(nn.Module):
        ...     def forward(self, x, s, t):
        ...         return torch.ones_like(x)
        >>> field = FlowMapField(Straight())
        >>> field.jump(torch.zeros(1, 2), 0.0, 0.5), field(torch.zeros(1, 2), 0.5)
        (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """

    usual, usual_steps = "jump", 4

    def average(self, x: State, s: Time, t: Time, **cond: Tensor) -> State:
        """The average velocity between s and t of the flow through x at s.

        Raises:
            TimeError: For times outside [0, 1], of another shape than () and (B,), or s above t.
            ConditionError: For conditions that the network does not know.
        """
        s, t = check_time(s, x), check_time(t, x)
        _check_order(s, t)
        return self.between(x, s, t, cond)

    def jump(self, x: State, s: Time, t: Time, **cond: Tensor) -> State:
        r"""$X_{s \to t}(x) = x + (t - s)\, u(x, s, t)$."""
        s, t = check_time(s, x), check_time(t, x)
        _check_order(s, t)
        return add(x, t - s, self.between(x, s, t, cond))  # type: ignore[operator]

    def between(self, x: State, s: Time, t: Time, cond: Cond, kind: Kind = "velocity") -> State:
        """`average` of trusted times and conditions; at s = t, the prediction of another kind if that is wanted."""
        given, cond = self._asked(x, cond)
        value = self.net(given, self.door(s, x), self.door(t, x), **cond)
        return self._formed(value, x, s, kind)

    def answer(self, q: Query) -> Reply:
        """The average over the query's span, or an estimate at its time."""
        if q.kind == "average":
            return Reply(self.between(q.x, q.span[0], q.span[1], q.cond))
        if q.kind == "score":
            self.check_score()
        return Reply(self.between(q.x, q.t, q.t, q.cond, q.kind))


class TransportField(_FewStep):
    r"""A network with one time that jumps from any time to the data: $X_{t \to 1}(x) = x + (1 - t)\, \phi(x, t)$.

    Its velocity *is* phi, so Euler with one step is exact; with more steps it follows chords to the data, and
    `solver="renoise"` jumps and draws fresh noise instead.

    Args:
        net: Called `net(x, t, **cond)`.
        path: Of the teacher.
        predicts: The kind of the network's output; phi is made of it as a velocity is.
        shift: Of the grids that it is sampled on.
        gaussian: Whether x0 ~ N(0, I) independently of x1.
        shape: One sample's shape; training fills it in.
        value_range: Lowest and highest value of the data; training fills it in.
        baked: Scale of the guidance that its weights hold.

    Example:
        >>> class Straight(nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.ones_like(x)
        >>> TransportField(Straight()).data(torch.zeros(1, 2), 0.25)
        tensor([[0.7500, 0.7500]])

    Reference: MDT-dist, Zhou et al. (2025), https://arxiv.org/abs/2509.04406, eq. 4.
    """

    usual, usual_steps = "euler", 4

    def answer(self, q: Query) -> Reply:
        """Phi as the velocity; the data that it jumps to; other kinds by the path, from these data."""
        x, cond = self._asked(q.x, q.cond)
        phi = self._formed(self.net(x, self.door(q.t, q.x), **cond), q.x, q.t, "velocity")
        if q.kind in ("velocity", "average"):
            return Reply(phi)
        if q.kind == "score":
            self.check_score()
        data = add(q.x, 1.0 - q.t, phi)  # type: ignore[operator]
        return Reply(data if q.kind == "data" else self.path.convert(data, q.x, q.t, "data", q.kind))


def _check_order(s: Time, t: Time) -> None:
    if isinstance(s, dict) or isinstance(t, dict):
        raise OptionError("A flow map has one time a row, not one a variable.")
    late = s > t
    if late if isinstance(late, bool) else late.device.type == "cpu" and bool(late.any()):
        raise TimeError(f"A flow map goes from s to a later t, got s = {s} and t = {t}.")


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
