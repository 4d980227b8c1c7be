r"""Paths from source to data, and the algebra that makes every prediction an image of every other.

On $x_t = \alpha_t x_1 + \sigma_t x_0$ the velocity, the data estimate, the noise estimate and the score are
affine in each other: `value_dst = c_x x + c_v value_src`. `coefficients` gives the two numbers in float64;
they are formed from the head's own output, never through a division that is singular at the end in use.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, cast, final

from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.schedule import Schedule
from rheos.core.schedules import Linear, schedule
from rheos.core.spaces import Euclidean, Product, Space
from rheos.core.state import Coefficient, State, affine, scale, tensors

__all__ = ["KINDS", "AffinePath", "GeodesicPath", "JointPath", "Kind", "Path", "PathSample", "Time"]

Kind = Literal["velocity", "data", "noise", "score", "v_prediction", "edm", "average"]
KINDS: tuple[str, ...] = ("velocity", "data", "noise", "score", "v_prediction", "edm")
Time = float | Tensor | dict[str, float | Tensor] | dict[str, Tensor]
Pair = tuple[Scalar, Scalar]
"""Two coefficients: of the state, and of the value."""


class PathSample(NamedTuple):
    """A point of a conditional path and its velocity there.

    Args:
        xt: The state at t.
        u: Its velocity, the regression target.
        x0: The source end.
        x1: The data end.
        t: The time.
        noise: The path's own noise, where it has some.
    """

    xt: State
    u: State
    x0: State
    x1: State
    t: Time
    noise: State | None = None


class Path(ABC):
    """How a source sample and a data sample are joined in time."""

    noisy = False
    """Whether `sample` takes normal numbers as well."""

    @abstractmethod
    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """The point at t between x0 and x1, and the velocity there."""

    @property
    def space(self) -> Space:
        """The geometry that solvers step in."""
        return Euclidean()

    @property
    def flat(self) -> bool:
        """Whether steps are sums."""
        return isinstance(self.space, Euclidean)

    @property
    def finite(self) -> tuple[float, float]:
        """Times between which velocities of this path are finite."""
        return 0.0, 1.0

    def renoise(self, x: State, start: Time, end: Time, noise: State) -> State:
        """Carry the state at `start` back to the noisier time `end` with fresh Gaussian noise; the marginal is kept.

        Raises:
            OptionError: On paths where that has no closed form.
        """
        raise OptionError(f"{type(self).__name__} cannot noise a state back: repeated intervals need an affine path.")

    @abstractmethod
    def target(self, sample: PathSample, kind: Kind) -> State:
        """What a head of `kind` should predict at a path sample."""

    @abstractmethod
    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """What a prediction of kind `src` at (x, t) says as a prediction of kind `dst`."""


@final
@dataclass(frozen=True)
class AffinePath(Path):
    r"""$x_t = \alpha_t x_1 + \sigma_t x_0$ with velocity $u = \dot\alpha_t x_1 + \dot\sigma_t x_0$.

    Args:
        schedule: A `Schedule`, or the name of one: "linear", "gvp", "vp", "sub-vp", "ve", "edm", "ddpm".
        sigma_data: Standard deviation of the data, which the kind "edm" needs; positive.

    Raises:
        UnknownOptionError: For an unknown schedule.
        OptionError: For a sigma_data that is not positive.

    Example:
        >>> import torch
        >>> path, x0, x1 = AffinePath("linear"), torch.zeros(1, 2), torch.ones(1, 2)
        >>> s = path.sample(x0, x1, 0.25)
        >>> path.convert(s.u, s.xt, 0.25, "velocity", "data")
        tensor([[1., 1.]])

    Reference: https://arxiv.org/abs/2510.21890; flow matching, Lipman et al. (2023).
    """

    schedule: Schedule | str = field(default_factory=Linear)
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", schedule(self.schedule))
        if not 0 < self.sigma_data < math.inf:
            raise OptionError(f"sigma_data must be positive and finite, got {self.sigma_data}.")

    flat = True

    @property
    def law(self) -> Schedule:
        """The schedule, never a name."""
        return cast(Schedule, self.schedule)

    @cached_property
    def steep(self) -> bool:
        """Whether sigma' is infinite at t = 1, as on VP."""
        return bool(self.law.d_sigma(1.0) == -math.inf)

    @property
    def finite(self) -> tuple[float, float]:
        """All of [0, 1], short of its end where sigma' is infinite there."""
        return 0.0, 1 - 1e-5 if self.steep else 1.0

    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """The point at t and its velocity; t is a float, (B,), or any prefix of the state's shape.

        Raises:
            ShapeError: If x0 and x1 differ in shape or names.
        """
        _check_ends(x0, x1)
        c = self.law
        xt = affine(_each(c.alpha, t), x1, _each(c.sigma, t), x0)
        return PathSample(xt, affine(_each(c.d_alpha, t), x1, _each(c.d_sigma, t), x0), x0, x1, t)

    def coefficients(self, t: Scalar, src: str, dst: str) -> Pair:
        """(c_x, c_v) with value_dst = c_x x + c_v value_src, float64; infinite only where truly singular."""
        if src == dst:
            return 0.0, 1.0
        data, noise = self._estimates(t, src)
        return self._combine(t, data, noise, dst)

    def _estimates(self, t: Scalar, src: str) -> tuple[Pair, Pair]:
        """Data and noise estimates as (coefficient of x, coefficient of the value)."""
        a, s = self.law.alpha(t), self.law.sigma(t)
        if src == "velocity":
            return self._from_velocity(t, a, s)
        if src == "data":
            return (0.0, 1.0), (sc.divide(1.0, s), -sc.divide(a, s))
        if src == "noise":
            return (sc.divide(1.0, a), -sc.divide(s, a)), (0.0, 1.0)
        if src == "score":  # x0 = -sigma score
            return (sc.divide(1.0, a), sc.divide(s * s, a)), (0.0, -s)
        if src == "v_prediction":
            n = a * a + s * s
            return (a / n, -s / n), (s / n, a / n)
        v = s * s + self.sigma_data**2 * a * a
        r = self.sigma_data / sc.sqrt(v)
        return (self.sigma_data**2 * a / v, s * r), (s / v, -a * r)

    def _from_velocity(self, t: Scalar, a: Scalar, s: Scalar) -> tuple[Pair, Pair]:
        da, ds, w = self.law.d_alpha(t), self.law.d_sigma(t), self.law.wronskian(t)
        if not self.steep:
            return (-ds / w, s / w), (da / w, -a / w)
        if not isinstance(ds, Tensor):
            if ds == -math.inf:  # the state itself is the data, and the velocity says nothing
                return (1.0 / a, 0.0), (0.0, 0.0)
            return (-ds / w, s / w), (da / w, -a / w)
        end = ds.isinf()
        data, noise = (-ds / w, s / w), (da / w, -a / w)
        return (
            (sc.where(end, 1.0 / a, data[0]), sc.where(end, 0.0, data[1])),
            (sc.where(end, 0.0, noise[0]), sc.where(end, 0.0, noise[1])),
        )

    def form(self, t: Scalar, dst: str) -> Pair:
        """(p, q) with value_dst = p x1 + q x0; not for "data" and "noise", which are x1 and x0."""
        a, s = self.law.alpha(t), self.law.sigma(t)
        if dst == "velocity":
            return self.law.d_alpha(t), self.law.d_sigma(t)
        if dst == "score":
            return 0.0, -sc.divide(1.0, s)
        if dst == "v_prediction":
            return -s, a
        root = sc.sqrt(s * s + self.sigma_data**2 * a * a)
        return s / (self.sigma_data * root), -self.sigma_data * a / root

    def _combine(self, t: Scalar, data: Pair, noise: Pair, dst: str) -> Pair:
        if dst in ("data", "noise"):
            return data if dst == "data" else noise
        p, q = self.form(t, dst)
        if dst == "score":
            return q * noise[0], q * noise[1]
        return p * data[0] + q * noise[0], p * data[1] + q * noise[1]

    def target(self, sample: PathSample, kind: Kind) -> State:
        """What a head of `kind` should predict at a path sample."""
        if kind == "velocity":
            return sample.u
        if kind in ("data", "noise"):
            return sample.x1 if kind == "data" else sample.x0
        return affine(
            _each(lambda t: self.form(t, kind)[0], sample.t),
            sample.x1,
            _each(lambda t: self.form(t, kind)[1], sample.t),
            sample.x0,
        )

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """See `Path.convert`; kinds are "velocity", "data", "noise", "score", "v_prediction" and "edm"."""
        check_choice("src", src, KINDS)
        check_choice("dst", dst, KINDS)
        if src == dst:
            return value
        if isinstance(t, dict):
            values, at = _dict(value, t), _dict(x, t)
            return {n: cast(Tensor, self.convert(values[n], at[n], clock, src, dst)) for n, clock in t.items()}
        cx, cv = self.coefficients(t, src, dst)
        return affine(cx, x, cv, value)

    def renoise(self, x: State, start: Time, end: Time, noise: State) -> State:
        """Carry the state at `start` back to the noisier time `end` with fresh Gaussian noise.

        x_end = (alpha_end / alpha_start) x + sqrt(sigma_end^2 - (ratio sigma_start)^2) noise, which keeps the marginal.
        """
        ratio = _each(lambda a, b: sc.divide(self.law.alpha(a), self.law.alpha(b)), end, start)
        spread = _each(self._spread, end, start)
        return affine(ratio, x, spread, noise)

    def _spread(self, end: Scalar, start: Scalar) -> Scalar:
        kept = sc.divide(self.law.alpha(end), self.law.alpha(start)) * self.law.sigma(start)
        left = self.law.sigma(end) ** 2 - kept**2
        return sc.sqrt(left.clamp(min=0.0) if isinstance(left, Tensor) else max(left, 0.0))

    def change(self, other: "AffinePath", t: Scalar) -> tuple[Scalar, Scalar]:
        """The time t' of *this* path whose signal-to-noise ratio is other's at t, and the factor x' = c x."""
        mine = self.law.t_of_lam(other.law.lam(t))
        big = other.law.sigma(t) > other.law.alpha(t)  # divide by the larger coefficient
        by_sigma = sc.divide(self.law.sigma(mine), other.law.sigma(t))
        return mine, sc.where(big, by_sigma, sc.divide(self.law.alpha(mine), other.law.alpha(t)))


def _each(f: Callable[..., Scalar], t: Time, *more: Time) -> Coefficient:
    """A function of a time, name by name when that is a dict."""
    if isinstance(t, dict):
        return {name: f(v, *(m[name] if isinstance(m, dict) else m for m in more)) for name, v in t.items()}
    return f(t, *more)


def _dict(x: State, t: dict[str, float | Tensor] | dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(x, dict) or x.keys() != t.keys():
        came = sorted(x) if isinstance(x, dict) else "a tensor"
        raise ShapeError(f"Times are given for {sorted(t)}, the state has {came}.")
    return x


def _check_ends(x0: State, x1: State) -> None:
    """The source and the data must agree, or broadcasting would hide it."""
    if isinstance(x0, dict) != isinstance(x1, dict) or (
        isinstance(x0, dict) and isinstance(x1, dict) and x0.keys() != x1.keys()
    ):
        raise ShapeError("x0 and x1 must both be tensors, or dicts with the same names.")
    for a, b in zip(tensors(x0), [x1] if isinstance(x1, Tensor) else [x1[n] for n in x0], strict=True):
        if a.shape != b.shape:
            raise ShapeError(f"x0 and x1 must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")


@final
@dataclass(frozen=True)
class GeodesicPath(Path):
    r"""Constant-speed geodesics of a `Space`: $x_t = \exp_{x_0}(t \log_{x_0} x_1)$.

    Velocities are tangents; a data estimate $\hat x_1$ and a velocity are related by
    $v = \log_{x_t}(\hat x_1) / (1 - t)$.

    Args:
        geometry: The space.

    Reference: Flow Matching on General Geometries, Chen & Lipman (2024), eq. 12-14.
    """

    geometry: Space

    @property
    def space(self) -> Space:
        """The geometry."""
        return self.geometry

    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """The point at t on the geodesic and the tangent there."""
        tangent = self.space.diff(x0, x1)
        xt = self.space.move(x0, scale(t, tangent))
        return PathSample(xt, self.space.transport(x0, xt, tangent), x0, x1, t)

    def target(self, sample: PathSample, kind: Kind) -> State:
        """The tangent, or the data."""
        check_choice("kind on a geodesic path", kind, ("velocity", "data"))
        return sample.u if kind == "velocity" else sample.x1

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """Between "velocity" and "data"; other kinds need a vector space."""
        check_choice("src", src, ("velocity", "data"))
        check_choice("dst", dst, ("velocity", "data"))
        if src == dst:
            return value
        rest = _each(lambda s: 1.0 - s, t)
        if src == "velocity":
            return self.space.move(x, scale(rest, value))
        return scale(_each(lambda r: sc.divide(1.0, r), rest), self.space.diff(x, value))


@final
@dataclass(frozen=True)
class JointPath(Path):
    """Several named variables, each on a path of its own, at one time or at a time each.

    Args:
        paths: Path by name, at least one; states are dicts with these names.

    Raises:
        OptionError: If there is none.

    Example:
        >>> import torch
        >>> joint = JointPath({"picture": AffinePath("linear"), "mask": AffinePath("gvp")})
        >>> ends = {"picture": torch.zeros(2, 3), "mask": torch.zeros(2, 1)}
        >>> sorted(joint.sample(ends, ends, {"picture": 0.2, "mask": 0.9}).xt)
        ['mask', 'picture']
    """

    paths: dict[str, Path]

    def __post_init__(self) -> None:
        if not self.paths:
            raise OptionError("A joint path needs at least one part.")

    @property
    def space(self) -> Space:
        """The product of the parts' spaces, flat when all of them are."""
        parts = {n: p.space for n, p in self.paths.items()}
        return Euclidean() if all(isinstance(s, Euclidean) for s in parts.values()) else Product(parts)

    @property
    def finite(self) -> tuple[float, float]:
        """Where the velocities of all parts are finite."""
        ends = [p.finite for p in self.paths.values()]
        return max(low for low, _ in ends), min(high for _, high in ends)

    def _named(self, x: State) -> dict[str, Tensor]:
        if not isinstance(x, dict) or x.keys() != self.paths.keys():
            came = sorted(x) if isinstance(x, dict) else "a tensor"
            raise ShapeError(f"This path joins {sorted(self.paths)}, the state has {came}.")
        return x

    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """Each variable on its own path."""
        a, b = self._named(x0), self._named(x1)
        parts = {n: p.sample(a[n], b[n], _at(t, n)) for n, p in self.paths.items()}
        xt, u = ({n: cast(Tensor, part[k]) for n, part in parts.items()} for k in (0, 1))
        return PathSample(xt, u, x0, x1, t)

    def target(self, sample: PathSample, kind: Kind) -> State:
        """Each variable's own target."""
        xt, u, x0, x1 = (self._named(x) for x in (sample.xt, sample.u, sample.x0, sample.x1))
        clock = sample.t
        return {
            n: cast(Tensor, p.target(PathSample(xt[n], u[n], x0[n], x1[n], _at(clock, n)), kind))
            for n, p in self.paths.items()
        }

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """Each variable by its own path."""
        v, at = self._named(value), self._named(x)
        return {n: cast(Tensor, p.convert(v[n], at[n], _at(t, n), src, dst)) for n, p in self.paths.items()}

    def renoise(self, x: State, start: Time, end: Time, noise: State) -> State:
        """Each variable by its own path."""
        at, z = self._named(x), self._named(noise)
        return {n: cast(Tensor, p.renoise(at[n], _at(start, n), _at(end, n), z[n])) for n, p in self.paths.items()}


def _at(t: Time, name: str) -> float | Tensor:
    return t[name] if isinstance(t, dict) else t
