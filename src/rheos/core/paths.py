r"""Paths from source to data, and the algebra that makes every prediction an image of every other.

On $x_t = \alpha_t x_1 + \sigma_t x_0$ the velocity, the data estimate, the noise estimate and the score are
affine in each other: `value_dst = c_x x + c_v value_src`. `coefficients` gives the two numbers in float64;
they are formed from the head's own output, never through a division that is singular at the end in use.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import ShapeError, check_choice
from rheos.core.scalars import Scalar
from rheos.core.schedules import Linear, Schedule, schedule
from rheos.core.spaces import Euclidean, Product, Space
from rheos.core.state import State, add, affine, expand, map_state, scale

__all__ = ["KINDS", "AffinePath", "GeodesicPath", "JointPath", "Kind", "Path", "PathSample", "Time"]

Kind = Literal["velocity", "data", "noise", "score", "v_prediction", "edm", "average"]
KINDS: tuple[str, ...] = ("velocity", "data", "noise", "score", "v_prediction", "edm")
Time = float | Tensor | dict[str, float | Tensor]


class PathSample(NamedTuple):
    """A point of a conditional path and its velocity there.

    Args:
        xt: The state at t.
        u: Its velocity, the regression target.
        x0: The source end.
        x1: The data end.
        t: The time.
    """

    xt: State
    u: State
    x0: State
    x1: State
    t: Time


class Path(ABC):
    """How a source sample and a data sample are joined in time."""

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
        sigma_data: Standard deviation of the data, which the kind "edm" needs.

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

    flat = True

    @property
    def law(self) -> Schedule:
        """The schedule, never a name."""
        return self.schedule  # type: ignore[return-value]

    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """The point at t and its velocity; t is a float, (B,), or any prefix of the state's shape."""
        c = self.law
        xt = affine(_each(c.alpha, t), x1, _each(c.sigma, t), x0)
        return PathSample(xt, affine(_each(c.d_alpha, t), x1, _each(c.d_sigma, t), x0), x0, x1, t)

    def coefficients(self, t: Scalar, src: str, dst: str) -> tuple[Scalar, Scalar]:
        """(c_x, c_v) with value_dst = c_x x + c_v value_src, float64; infinite only where truly singular."""
        if src == dst:
            return 0.0, 1.0
        data, noise = self._estimates(t, src)
        return self._combine(t, data, noise, dst)

    def _estimates(self, t: Scalar, src: str) -> tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]]:
        """Data and noise estimates as (coefficient of x, coefficient of the value)."""
        a, s = self.law.alpha(t), self.law.sigma(t)
        if src == "velocity":
            w = self.law.wronskian(t)
            da, ds = self.law.d_alpha(t), self.law.d_sigma(t)
            if not isinstance(t, Tensor) and ds in (-sc.math.inf, sc.math.inf):
                return self._at_infinite_slope(a, s)
            return (-ds / w, s / w), (da / w, -a / w)
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

    def _at_infinite_slope(self, a: Scalar, s: Scalar) -> tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]]:
        """Where sigma' is infinite (VP at t = 1) the state itself is the data."""
        return (sc.divide(1.0, a), 0.0), (0.0, 0.0)

    def _form(self, t: Scalar, dst: str) -> tuple[Scalar, Scalar]:
        """(p, q) with value_dst = p x1 + q x0."""
        a, s = self.law.alpha(t), self.law.sigma(t)
        if dst == "velocity":
            return self.law.d_alpha(t), self.law.d_sigma(t)
        if dst == "score":
            return 0.0, -sc.divide(1.0, s)
        if dst == "v_prediction":
            return -s, a
        root = sc.sqrt(s * s + self.sigma_data**2 * a * a)
        return s / (self.sigma_data * root), -self.sigma_data * a / root

    def _combine(
        self, t: Scalar, data: tuple[Scalar, Scalar], noise: tuple[Scalar, Scalar], dst: str
    ) -> tuple[Scalar, Scalar]:
        if dst in ("data", "noise"):
            return data if dst == "data" else noise
        p, q = self._form(t, dst)
        if dst == "score":
            return q * noise[0], q * noise[1]
        return p * data[0] + q * noise[0], p * data[1] + q * noise[1]

    def target(self, sample: PathSample, kind: Kind) -> State:
        """What a head of `kind` should predict at a path sample."""
        if kind == "velocity":
            return sample.u
        if kind in ("data", "noise"):
            return sample.x1 if kind == "data" else sample.x0
        p, q = self._form(sample.t, kind)  # type: ignore[arg-type]
        return affine(p, sample.x1, q, sample.x0)

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """See `Path.convert`; kinds are "velocity", "data", "noise", "score", "v_prediction" and "edm"."""
        check_choice("src", src, KINDS)
        check_choice("dst", dst, KINDS)
        if src == dst:
            return value
        if isinstance(t, dict):
            return {n: self.convert(value[n], x[n], t[n], src, dst) for n in t}  # type: ignore[call-overload,index,misc]
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


def _each(f, t, *more):  # type: ignore[no-untyped-def]
    """f of a time, name by name when it is a dict."""
    if isinstance(t, dict):
        return {name: f(t[name], *(m[name] if isinstance(m, dict) else m for m in more)) for name in t}
    return f(t, *more)


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
        paths: Path by name; states are dicts with these names.

    Example:
        >>> import torch
        >>> joint = JointPath({"picture": AffinePath("linear"), "mask": AffinePath("gvp")})
        >>> ends = {"picture": torch.zeros(2, 3), "mask": torch.zeros(2, 1)}
        >>> sorted(joint.sample(ends, ends, {"picture": 0.2, "mask": 0.9}).xt)
        ['mask', 'picture']
    """

    paths: dict[str, Path]

    @property
    def space(self) -> Space:
        """The product of the parts' spaces, flat when all of them are."""
        parts = {n: p.space for n, p in self.paths.items()}
        return Euclidean() if all(isinstance(s, Euclidean) for s in parts.values()) else Product(parts)

    def _named(self, x: State) -> dict[str, Tensor]:
        if not isinstance(x, dict) or x.keys() != self.paths.keys():
            came = sorted(x) if isinstance(x, dict) else "a tensor"
            raise ShapeError(f"This path joins {sorted(self.paths)}, the state has {came}.")
        return x

    def sample(self, x0: State, x1: State, t: Time) -> PathSample:
        """Each variable on its own path."""
        a, b = self._named(x0), self._named(x1)
        parts = {n: p.sample(a[n], b[n], t[n] if isinstance(t, dict) else t) for n, p in self.paths.items()}
        return PathSample({n: p.xt for n, p in parts.items()}, {n: p.u for n, p in parts.items()}, x0, x1, t)  # type: ignore[misc]

    def target(self, sample: PathSample, kind: Kind) -> State:
        """Each variable's own target."""
        parts = [self._named(x) for x in (sample.xt, sample.u, sample.x0, sample.x1)]
        clock = sample.t
        return {
            n: p.target(PathSample(*(part[n] for part in parts), clock[n] if isinstance(clock, dict) else clock), kind)  # type: ignore[arg-type, misc]
            for n, p in self.paths.items()
        }

    def convert(self, value: State, x: State, t: Time, src: Kind, dst: Kind) -> State:
        """Each variable by its own path."""
        v, at = self._named(value), self._named(x)
        return {
            n: p.convert(v[n], at[n], t[n] if isinstance(t, dict) else t, src, dst)  # type: ignore[misc]
            for n, p in self.paths.items()
        }
