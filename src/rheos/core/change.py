"""Change of path: run a trained field on another schedule without retraining.

For the target's coefficients at time r find the own time t with the same signal-to-noise ratio; the state is
rescaled, the data and noise estimates stay, and the velocity is formed with the target's derivatives.

Reference: https://arxiv.org/abs/2510.21890; 2-Rectified Flow++, Lee et al. (2024), for VE to linear.
"""

from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.query import Query, Reply
from rheos.core.routed import Wrapped
from rheos.core.state import affine, scale

__all__ = ["OnPath"]


class OnPath(Wrapped):
    """`field` seen on another affine path.

    Args:
        field: Trained on an affine path.
        path: The path to run it on.

    Raises:
        OptionError: If the field's own path is not affine.
    """

    def __init__(self, field: Field, path: AffinePath) -> None:
        if not isinstance(field.path, AffinePath):
            raise OptionError(f"Only an affine path can be changed, this field lives on {type(field.path).__name__}.")
        super().__init__(field, path)
        self.shift = 1.0  # the shift was chosen for the native path's noise levels
        self.times = None  # and times of its own are the native path's
        self.native: AffinePath = field.path
        self.target = path

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for `core.config`."""
        return {"field": self.base, "path": self.target}

    @property
    def finite(self) -> tuple[float, float]:
        """Where the native field's velocity is finite, seen in the target's time, inside (0, 1)."""
        low, high = self.base.finite
        clip = 1e-5
        inside = [self._target_time(min(max(t, clip), 1 - clip)) for t in (low, high)]
        return max(inside[0], clip), min(inside[1], 1 - clip)

    def _target_time(self, t: float) -> float:
        return float(self.target.law.t_of_lam(self.native.law.lam(t)))

    def _inside(self, t: float | Tensor) -> float | Tensor:
        """The nearest time at which both paths have finite coefficients."""
        low, high = self.finite
        return t.clamp(low, high) if isinstance(t, Tensor) else min(max(t, low), high)

    def answer(self, q: Query) -> Reply:
        """Ask the native field for its own prediction at the matching time, and form the rest from that.

        Raises:
            OptionError: For a time by variable, which this change does not cover.
        """
        if isinstance(q.t, dict):
            raise OptionError("A field on another path takes one time a row, not one a variable.")
        q = q._replace(t=self._inside(q.t))
        assert not isinstance(q.t, dict)
        own, factor = self.native.change(self.target, q.t)
        x = scale(factor, q.x)
        reply = self.base.answer(q._replace(x=x, t=own, kind=self.base.predicts))
        data = self.native.convert(reply.value, x, own, self.base.predicts, "data")
        if q.kind == "data":
            return reply._replace(value=data)
        noise = self.native.convert(reply.value, x, own, self.base.predicts, "noise")
        if q.kind == "noise":
            return reply._replace(value=noise)
        if q.kind == "score":
            self.check_score()
        p, r = self.target.form(q.t, q.kind)
        return reply._replace(value=affine(p, data, r, noise))

    def on(self, path: AffinePath | str) -> Field:
        """The native field on yet another path."""
        return self.base.on(path)
