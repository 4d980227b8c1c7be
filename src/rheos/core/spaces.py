"""Geometry as a parameter: what a path and a solver need to know of the space they move in.

A tangent may have another shape than a point: a unit quaternion moves by a rotation vector in its own frame.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import OptionError, ShapeError
from rheos.core.state import State, flat_rows, map_state, map_state_named

__all__ = ["Euclidean", "Product", "Space", "UnitQuaternion"]


class Space(ABC):
    """Exponential and logarithm at a point, a random point, and a distance."""

    @abstractmethod
    def move(self, x: State, v: State) -> State:
        """exp_x(v): walk from x along the tangent v for unit time."""

    @abstractmethod
    def diff(self, x: State, y: State) -> State:
        """log_x(y): the shortest tangent at x that reaches y."""

    @abstractmethod
    def random(self, like: State, draws: Draws, *key: str | int) -> State:
        """Points of the source law: N(0, I), or uniform on a compact space."""

    @abstractmethod
    def distance(self, x: State, y: State) -> Tensor:
        """Geodesic distance, (B,)."""

    def transport(self, x: State, y: State, v: State) -> State:
        """The tangent v at x carried along the geodesic to y; constant in the frames used here."""
        return v


@final
@dataclass(frozen=True)
class Euclidean(Space):
    """Flat space: adding and subtracting."""

    def move(self, x: State, v: State) -> State:
        """$x + v$."""
        return map_state(torch.add, x, v)

    def diff(self, x: State, y: State) -> State:
        """$y - x$."""
        return map_state(torch.sub, y, x)

    def random(self, like: State, draws: Draws, *key: str | int) -> State:
        """Standard normal numbers."""
        return draws.normal(like, *key)

    def distance(self, x: State, y: State) -> Tensor:
        """The Euclidean norm of the difference of each row."""
        return _norm(self.diff(x, y))


@final
@dataclass(frozen=True)
class UnitQuaternion(Space):
    r"""Rotations as unit quaternions (w, x, y, z) on the last axis; tangents are rotation vectors (3,).

    $\log q = 2\,\mathrm{atan2}(|v|, w)\, v / |v|$ after flipping the sign to $w \ge 0$;
    $\exp p = (\cos |p|/2, \sin(|p|/2)\, p / |p|)$; tangents live in the body frame, so a geodesic's is constant.

    Reference: ReQFlow, Yue et al. (2025), exponential format.
    """

    def move(self, x: State, v: State) -> State:
        r"""$x \exp(v)$, normalised."""
        return map_state(lambda q, p: normalise(multiply(q, quaternion_exp(p))), x, v)

    def diff(self, x: State, y: State) -> State:
        r"""$\log(x^{-1} y)$."""
        return map_state(lambda q, r: quaternion_log(multiply(conjugate(q), r)), x, y)

    def random(self, like: State, draws: Draws, *key: str | int) -> State:
        """Uniform on the rotations."""
        return map_state(normalise, draws.normal(like, *key))

    def distance(self, x: State, y: State) -> Tensor:
        """Root of the sum over a row's rotations of the squared angle, (B,)."""
        return _norm(self.diff(x, y))


def _norm(v: State) -> Tensor:
    """Euclidean norm of each row, (B,)."""
    parts = [v] if isinstance(v, Tensor) else list(v.values())
    return torch.stack([flat_rows(p).square().sum(1) for p in parts]).sum(0).sqrt()


def _check_quaternion(q: Tensor) -> None:
    if q.shape[-1] != 4:
        raise ShapeError(f"A quaternion has four numbers (w, x, y, z) on the last axis, got shape {tuple(q.shape)}.")


def multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product of (..., 4) quaternions."""
    _check_quaternion(p)
    _check_quaternion(q)
    a, u = p[..., :1], p[..., 1:]
    b, v = q[..., :1], q[..., 1:]
    cross: Tensor = torch.linalg.cross(u.expand_as(u * v), v.expand_as(u * v))
    return torch.cat((a * b - (u * v).sum(-1, keepdim=True), a * v + b * u + cross), -1)


def conjugate(q: Tensor) -> Tensor:
    """The inverse of a unit quaternion."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def normalise(q: Tensor) -> Tensor:
    """A quaternion over its norm."""
    norm: Tensor = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return q / norm


def quaternion_exp(p: Tensor) -> Tensor:
    """Rotation vector (..., 3) to unit quaternion (..., 4)."""
    if p.shape[-1] != 3:
        raise ShapeError(f"A rotation vector has three numbers on the last axis, got shape {tuple(p.shape)}.")
    angle2 = p.square().sum(-1, keepdim=True)
    small = angle2 < 1e-8
    angle = torch.where(small, torch.ones_like(angle2), angle2).sqrt()
    ratio = torch.where(small, 0.5 - angle2 / 48, (angle / 2).sin() / angle)
    return torch.cat((torch.where(small, 1 - angle2 / 8, (angle / 2).cos()), ratio * p), -1)


def quaternion_log(q: Tensor) -> Tensor:
    """Unit quaternion (..., 4) to rotation vector (..., 3) of angle at most pi."""
    _check_quaternion(q)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    norm2 = v.square().sum(-1, keepdim=True)
    small = norm2 < 1e-8
    norm = torch.where(small, torch.ones_like(norm2), norm2).sqrt()
    ratio = torch.where(small, 2 / w - 2 * norm2 / (3 * w**3), 2 * torch.atan2(norm, w) / norm)
    return ratio * v


@final
@dataclass(frozen=True)
class Product(Space):
    """Named factors, for dict states.

    Args:
        spaces: Space by name.

    Example:
        >>> frames = Product({"x": Euclidean(), "q": UnitQuaternion()})
        >>> like = {"x": torch.zeros(2, 3), "q": torch.zeros(2, 4)}
        >>> a, b = (frames.random(like, Draws(torch.arange(2)), name) for name in "ab")
        >>> torch.allclose(frames.move(a, frames.diff(a, b))["x"], b["x"])
        True
    """

    spaces: dict[str, Space]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise OptionError("A product needs at least one space.")

    def move(self, x: State, v: State) -> State:
        """Factor by factor."""
        return map_state_named(lambda n, a, b: self.spaces[n].move(a, b), self._named(x), v)

    def diff(self, x: State, y: State) -> State:
        """Factor by factor."""
        return map_state_named(lambda n, a, b: self.spaces[n].diff(a, b), self._named(x), y)

    def random(self, like: State, draws: Draws, *key: str | int) -> State:
        """Factor by factor, keyed by name."""
        return map_state_named(lambda n, v: self.spaces[n].random(v, draws, *key, n), self._named(like))

    def distance(self, x: State, y: State) -> Tensor:
        """Root of the sum of the squared distances."""
        a, b = self._named(x), self._named(y)
        return torch.stack([s.distance(a[n], b[n]).square() for n, s in self.spaces.items()]).sum(0).sqrt()

    def _named(self, x: State) -> dict[str, Tensor]:
        if not isinstance(x, dict) or x.keys() != self.spaces.keys():
            came = sorted(x) if isinstance(x, dict) else "a tensor"
            raise ShapeError(f"This space has the parts {sorted(self.spaces)}, the state has {came}.")
        return x
