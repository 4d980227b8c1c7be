"""Fields: networks that answer queries of a flow.

`Field(net, path, predicts=...)` is called `field(x, t, **cond)` by a user and answers `Query` objects of the
sampling loop. Times are float64 until here, the network's door; what the head does not predict is formed by
the path's algebra from the head's own output.
"""

import copy
from collections.abc import Callable
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn

from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError, SourceNotGaussianError, TimeError, check_choice
from rheos.core.paths import KINDS, AffinePath, GeodesicPath, Kind, Path, Time
from rheos.core.query import Name, Query, Reply, merge, spread
from rheos.core.schedules import Linear
from rheos.core.state import State, device_of, dtype_of, like, rows

__all__ = ["Field", "Name", "Query", "Reply", "check_time", "merge", "spread"]


class Field(nn.Module):
    r"""A velocity field $v(x, t \mid c)$ made of a network, a path and what the network predicts.

    Args:
        net: Called `net(x, t, **cond)` with t of shape (B,), float32 (float64 for a float64 net). It may declare
            `conditions` (a set of names), `null(name, rows)`, the value of a condition that is absent, `kept`, names of
            conditions that the unconditional branch keeps, and `exact_times = True`, to be given float64 times always.
        path: An `AffinePath`, `GeodesicPath` or `JointPath`, or the name of a schedule.
        predicts: "velocity", "data", "noise", "score", "v_prediction" or "edm".
        shift: The time shift k this field is trained and sampled with, t' = t / (t + k (1 - t)).
        gaussian: Whether x0 ~ N(0, I) independently of x1; scores and SDEs need it.
        shape: One sample's shape; training fills it in.
        value_range: Lowest and highest value of the data, where it has such; training fills it in.
        times: The only times between which it may step, by Euler, where it was straightened for such; training fills it
            in. None: any.
        baked: Scale of the guidance that training put into the weights; 1 is none.

    Raises:
        UnknownOptionError: If `predicts` is unknown.
        OptionError: If the shift is not positive.
        TimeError: If `times` are not at least two increasing times in [0, 1].

    Example:
        >>> class Straight(nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.ones_like(x)
        >>> field = Field(Straight())
        >>> field(torch.zeros(2, 3), 0.5).mean(), field.data(torch.zeros(2, 3), 0.5).mean()
        (tensor(1.), tensor(0.5000))
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
        times: tuple[float, ...] | None = None,
        baked: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("predicts", predicts, KINDS)
        if not shift > 0:
            raise OptionError(f"shift must be positive, got {shift}.")
        self.net = net
        self.path: Path = AffinePath(path) if isinstance(path, str) else path
        if isinstance(self.path, GeodesicPath):
            check_choice("predicts on a geodesic path", predicts, ("velocity", "data"))
        if self.path.noisy:
            check_choice("predicts on a noisy path", predicts, ("velocity", "noise", "score"))
        self.predicts: Kind = predicts
        self.shift = shift
        self.gaussian = gaussian
        self.shape = tuple(shape) if shape is not None else None
        self.value_range = value_range
        self.times = times if times is None else _check_own(times)
        self.baked = baked
        self.conditions: frozenset[str] = frozenset(getattr(net, "conditions", ()))
        self._meet_net()

    def _meet_net(self) -> None:
        """Remember the network's dtype and device: looking them up costs microseconds a call."""
        first = next((p for p in self.net.parameters() if p.is_floating_point()), None)
        self._dtype = first.dtype if first is not None else None
        inner = (getattr(m, "config", None) for m in self.net.modules())  # the network may be in a wrapper
        known = (c.get("classes") for c in inner if isinstance(c, dict))
        self._classes = next((c for c in known if isinstance(c, int) and c), 0)
        self._clock = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._exact = bool(getattr(self.net, "exact_times", False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Field":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._meet_net()
        return self

    @property
    def dtype(self) -> torch.dtype:
        """What states are drawn in: float64 for a float64 network, else float32."""
        return self._clock

    @property
    def label_count(self) -> int:
        """How many labels the network was built for, inside wrappers too; 0 if none."""
        return self._classes

    @property
    def device(self) -> torch.device:
        """Where the network (or a field's own tables) lives."""
        first = next(self.parameters(), next(self.buffers(), None))
        return first.device if first is not None else torch.device("cpu")

    @property
    def finite(self) -> tuple[float, float]:
        """Times between which a velocity formed from the head's output is finite."""
        low = 1e-3 if self.predicts in ("noise", "score") else 0.0
        high = {"data": 1 - 1e-5, "score": 1 - 1e-3}.get(self.predicts, 1.0)
        return max(low, self.path.finite[0]), min(high, self.path.finite[1])

    edges: tuple[float, ...] = ()
    """Times that no solver step should straddle (fields made of blocks have some)."""

    usual: str = "heun"
    """The solver that `draw` and `solve` take unless told otherwise; fields made for few steps name their own."""

    usual_steps: int = 20
    """How many steps `draw` takes unless told otherwise, where the field has no times of its own."""

    baked: float = 1.0
    """Scale of the guidance that training put into the weights; sampling with guidance on top of it warns."""

    def forward(self, x: State, t: Time, **cond: Tensor) -> State:
        """The velocity at (x, t).

        Args:
            x: State, rows first.
            t: A float, or (B,), in [0, 1]; or any prefix of x's shape; or a dict of these.
            **cond: The network's conditions; an absent one takes its null value.

        Raises:
            ConditionError: For a condition the network does not know.
            TimeError: For times of a wrong shape, integer times, or float times outside [0, 1].
        """
        return self._estimate("velocity", x, t, cond)

    def data(self, x: State, t: Time, **cond: Tensor) -> State:
        """The estimate of x1 given x_t = x."""
        return self._estimate("data", x, t, cond)

    def noise(self, x: State, t: Time, **cond: Tensor) -> State:
        """The estimate of x0 given x_t = x."""
        return self._estimate("noise", x, t, cond)

    def score(self, x: State, t: Time, **cond: Tensor) -> State:
        """The gradient of ln p_t at x.

        Raises:
            SourceNotGaussianError: If the source is not N(0, I) independent of the data.
        """
        return self._estimate("score", x, t, cond)

    def _estimate(self, kind: Kind, x: State, t: Time, cond: Cond) -> State:
        t = check_time(t, x)
        if "label" in cond:
            self.check_label(cond["label"])
        return self.answer(Query(x, t, (t, t), cond, kind, grad=torch.is_grad_enabled())).value

    def check_label(self, label: Tensor) -> None:
        """Raise `ConditionError` for a class that the network does not have (looked at on a CPU only).

        The number of classes itself is the null label.
        """
        classes = self._classes
        if not isinstance(label, Tensor):
            raise ConditionError(f"label must be a tensor with a row a sample, got {type(label).__name__}.")
        if not classes or not label.numel() or label.device.type != "cpu" or torch.compiler.is_compiling():
            return
        low, high = (int(v) for v in label.aminmax())
        if low < 0 or high > classes:
            raise ConditionError(f"label must lie in 0 .. {classes - 1}, got {low if low < 0 else high}.")

    def check_score(self) -> None:
        """Raise `SourceNotGaussianError` where a score has no meaning."""
        if not self.gaussian and not self.path.noisy:  # a noisy path's score is that of its own noise
            raise SourceNotGaussianError(
                "A score (or an SDE, or classifier guidance) needs a source N(0, I) independent of the data; "
                "this field was declared gaussian=False. Use an ODE solver."
            )

    def answer(self, q: Query) -> Reply:
        """Answer a query of the loop; times and conditions are trusted."""
        if q.kind == "score":
            self.check_score()
        if q.kind == "average":
            raise OptionError("This field knows velocities; only a flow map knows their average. Use an ODE solver.")
        cond = q.cond if q.cond.keys() == self.conditions else self.complete(q.cond, rows(q.x))
        x = q.x
        if self._dtype is not None and dtype_of(x) != self._dtype:
            x = like(x, self._dtype)
        t = self.door(q.t, q.x)
        value = self.net(x, t, **cond, taps=q.taps) if q.taps else self.net(x, t, **cond)
        if x is not q.x:
            value = like(value, dtype_of(q.x))
        if q.kind != self.predicts:
            value = self.path.convert(value, q.x, q.t, self.predicts, q.kind)
        return Reply(value)

    def door(self, t: Time, x: State) -> Tensor | dict[str, Tensor]:
        """Times as the network takes them: (B,) or more axes, float32, or float64 where it is or asks for such."""
        clock = torch.float64 if self._exact else self._clock
        if isinstance(t, float):
            first = x if isinstance(x, Tensor) else next(iter(x.values()))
            return torch.full((first.shape[0],), t, dtype=clock, device=first.device)
        if isinstance(t, Tensor):
            t = t.to(device=device_of(x), dtype=clock)
            return t.expand(rows(x), *t.shape[1:]) if t.ndim == 0 or t.shape[0] == 1 else t
        return {n: cast(Tensor, self.door(v, x)) for n, v in t.items()}

    def null(self, cond: Cond) -> Cond:
        """The same conditions with every value null, in the shape of what it replaces: the unconditional branch.

        What the network declares as `kept` stays.
        """
        kept = getattr(self.net, "kept", ())
        return {n: v if n in kept else _stretched(self._null(n, len(v)), v) for n, v in cond.items()}

    def _null(self, name: str, n: int) -> Tensor:
        make = getattr(self.net, "null", None)
        if make is None:
            raise ConditionError(
                f"The network has no null value for {name!r}. Give it a method null(name, rows), or the condition."
            )
        return cast(Tensor, make(name, n))

    def complete(self, cond: Cond, n: int) -> Cond:
        """Null values for absent conditions.

        Raises:
            ConditionError: For names that the network does not know.
        """
        unknown = sorted(cond.keys() - self.conditions)
        if unknown:
            known = ", ".join(sorted(self.conditions)) or "none"
            raise ConditionError(f"Unknown condition {', '.join(unknown)}; this network takes: {known}.")
        return {name: cond[name] if name in cond else self._null(name, n) for name in sorted(self.conditions)}

    @property
    def bare(self) -> bool:
        """Whether it is a network, a path and a kind of prediction and no more: a student can be made of these."""
        return type(self) is Field

    @property
    def remembers(self) -> bool:
        """Whether it has a memory, so that the loop must carry one."""
        return type(self).memory is not Field.memory

    def memory(self, x: State) -> State | None:
        """Per-row state to begin a trajectory with; plain networks have none."""
        return None

    def on(self, path: "AffinePath | str") -> "Field":
        """This field moved to another affine path without retraining: same data estimate, same noise estimate.

        Raises:
            OptionError: If either path is not affine.
        """
        from rheos.core.change import OnPath

        return OnPath(self, AffinePath(path) if isinstance(path, str) else path)

    def as_velocity(self) -> "Field":
        """A trainable copy with the same weights on the linear path, whose raw output is taken for the velocity.

        A velocity on the linear path is copied as it is, without its shift. Any other prediction is *not* converted:
        the copy begins with large losses and learns a new meaning of its output, as InstaFlow does with Stable
        Diffusion.

        Raises:
            OptionError: For a class of fields that cannot say what its raw output is.
        """
        if isinstance(self.path, AffinePath) and self.path.law == Linear() and self.predicts == "velocity":
            copied = copy.deepcopy(self)
            copied.shift, copied.times = 1.0, None
        elif type(self) is Field:
            copied = Field(
                copy.deepcopy(self.net), gaussian=self.gaussian, shape=self.shape, value_range=self.value_range
            )
        else:
            raise OptionError(f"A {type(self).__name__} cannot start a student by its raw output. Give a student.")
        return copied.requires_grad_(True)

    @property
    def about(self) -> dict[str, Any]:
        """What a field made of this one's network keeps: shift, gaussian, shape and value range, as arguments."""
        return {name: getattr(self, name) for name in ("shift", "gaussian", "shape", "value_range")}

    def extra_repr(self) -> str:
        """What stands in print(field)."""
        return f"path={self.path}, predicts={self.predicts!r}, shift={self.shift}, gaussian={self.gaussian}"


def _stretched(null: Tensor, value: Tensor) -> Tensor:
    """A null of one pixel (a picture joined to the channels has such) repeated, to stand beside the value."""
    fits = null.ndim == value.ndim and all(a in (1, b) for a, b in zip(null.shape, value.shape, strict=True))
    return null.expand(value.shape) if fits and null.shape != value.shape else null


def _check_own(times: tuple[float, ...]) -> tuple[float, ...]:
    """Times that a field is made for."""
    own = tuple(float(t) for t in times)
    if len(own) < 2 or own != tuple(sorted(set(own))) or own[0] < 0 or own[-1] > 1:
        raise TimeError(f"times are at least two increasing times in [0, 1], got {own}.")
    return own


def check_time(t: Time, x: State) -> Time:
    """A user's time, checked: floats in [0, 1] as they are, tensors as float64.

    Raises:
        TimeError: For integers other than 0 and 1, values outside [0, 1] (floats only: a tensor on an accelerator
            is not read), or a shape that is not a prefix of the state's.
    """
    if isinstance(t, dict):
        if not isinstance(x, dict) or x.keys() != t.keys():
            came = sorted(x) if isinstance(x, dict) else "a tensor"
            raise TimeError(f"Times are given for {sorted(t)}, the state has {came}.")
        return {n: cast(Tensor, check_time(v, x[n])) for n, v in t.items()}
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise TimeError(f"Times are floats in [0, 1], got dtype {t.dtype}. Divide a step index by its last step.")
        shape = (x if isinstance(x, Tensor) else next(iter(x.values()))).shape
        if t.ndim > len(shape) or any(a not in (1, b) for a, b in zip(t.shape, shape, strict=False)):
            raise TimeError(f"t must be a number or have shape ({shape[0]},), got {tuple(t.shape)}.")
        if t.device.type == "cpu" and not bool(((t >= 0) & (t <= 1)).all()):
            raise TimeError(f"Times lie in [0, 1], got values from {float(t.min())} to {float(t.max())}.")
        return t.double()
    if not isinstance(t, Real):
        raise TimeError(f"t must be a number, a tensor or a dict of tensors, got {type(t).__name__}.")
    if not 0 <= t <= 1:
        raise TimeError(f"Times lie in [0, 1], got {t}. t = 0 is noise, t = 1 is data.")
    return float(t)
