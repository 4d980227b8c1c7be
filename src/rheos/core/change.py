"""Change of path: run a trained field on another schedule without retraining.

For the target's coefficients at time r find the own time t with the same signal-to-noise ratio; the state is
rescaled, the data and noise estimates stay, and the velocity is formed with the target's derivatives.

Reference: https://arxiv.org/abs/2510.21890; 2-Rectified Flow++, Lee et al. (2024), for VE to linear.
"""

from typing import Self

from rheos.core.errors import OptionError
from rheos.core.field import Field, Query, Reply
from rheos.core.paths import AffinePath
from rheos.core.state import affine, scale

__all__ = ["OnPath"]


class OnPath(Field):
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
        super().__init__(field.net, path, "velocity", gaussian=field.gaussian, shape=field.shape)
        self.base = field
        self.native: AffinePath = field.path
        self.target = path
        self.conditions = field.conditions

    @property
    def finite(self) -> tuple[float, float]:
        """Where the native field's velocity is finite, seen in the target's time, inside (0, 1)."""
        low, high = self.base.finite
        clip = 1e-5
        inside = [self._target_time(min(max(t, clip), 1 - clip)) for t in (low, high)]
        return max(inside[0], clip), min(inside[1], 1 - clip)

    def _target_time(self, t: float) -> float:
        return float(self.target.law.t_of_lam(self.native.law.lam(t)))

    def answer(self, q: Query) -> Reply:
        """Ask the native field for data and noise estimates at the matching time."""
        own, factor = self.native.change(self.target, q.t)  # type: ignore[arg-type]
        x = scale(factor, q.x)
        head = self.base.answer(q._replace(x=x, t=own, kind=self.base.predicts)).value
        data = self.native.convert(head, x, own, self.base.predicts, "data")
        if q.kind == "data":
            return Reply(data)
        noise = self.native.convert(head, x, own, self.base.predicts, "noise")
        if q.kind == "noise":
            return Reply(noise)
        law = self.target.law
        if q.kind == "score":
            self.check_score()
            return Reply(scale(-1.0 / law.sigma(q.t), noise))  # type: ignore[arg-type]
        return Reply(affine(law.d_alpha(q.t), data, law.d_sigma(q.t), noise))  # type: ignore[arg-type]

    def on(self, path: AffinePath | str) -> Field:
        """The native field on yet another path."""
        return self.base.on(path)

    def train(self, mode: bool = True) -> Self:
        """Pass the mode on."""
        super().train(mode)
        return self
