r"""A teacher seen on the linear path: what 2-Rectified Flow++ draws its pairs from, and begins its student as.

A velocity formed of an estimate of the noise divides by $\alpha$, the data's share of the state. Near t = 0 this
multiplies the network's errors, on the VP path by 150, and training moves such a velocity by as much. There the
velocity of a later time stands in: while the state is nearly pure noise, it hardly depends on time.
"""

import copy
from typing import final

import torch
from torch import Tensor

from rheos.core.change import OnPath
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.schedules import Linear
from rheos.core.state import affine
from rheos.nets import EDM

__all__ = ["OffPole", "on_line", "pole", "retimed"]

GAIN = 10.0
LATEST = 0.2


@final
class OffPole(OnPath):
    """`field` on another affine path, asked for no time before `low`; earlier states meet the velocity of that time.

    Args:
        field: Trained on an affine path.
        path: The path to run it on.
        low: Below it the network's output is not divided by less.

    Raises:
        OptionError: If the field's own path is not affine, or for a time outside (0, 0.5).
    """

    def __init__(self, field: Field, path: AffinePath, low: float) -> None:
        if not 0 < low < 0.5:
            raise OptionError(f"low must lie in (0, 0.5), got {low}.")
        super().__init__(field, path)
        self.low = low
        self.gaussian = False  # a student's noise belongs to its sample; the field inside keeps its own word

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments, for `core.config`."""
        return {**super().config, "low": self.low}

    @property
    def finite(self) -> tuple[float, float]:
        """From the noise on."""
        return 0.0, super().finite[1]

    def _inside(self, t: float | Tensor) -> float | Tensor:
        high = self.finite[1]
        return t.clamp(self.low, high) if isinstance(t, Tensor) else min(max(t, self.low), high)


def pole(field: Field) -> float:
    """The linear path's time up to which an error of the output is more than ten errors of the velocity; 0: none.

    At most 0.2, where states still are mostly noise.
    """
    assert isinstance(field.path, AffinePath)
    linear, native = AffinePath("linear"), field.path
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)

    def gain(t: float) -> float:
        own, _ = native.change(linear, t)
        data, noise = (native.convert(one, zero, own, field.predicts, kind) for kind in ("data", "noise"))
        p, r = linear.form(t, "velocity")
        value = affine(p, data, r, noise)
        assert isinstance(value, Tensor)
        return abs(float(value))

    first = field.on(linear).finite[0]
    steps = [first, *(k / 100 for k in range(1, round(100 * LATEST)) if k / 100 > first)]
    found = next((t for t in steps if gain(t) <= GAIN), LATEST)
    return 0.0 if found == first else found


def on_line(field: Field) -> Field:
    """A field on the linear path, for drawing: outside its own noise levels, and at a pole, it is not asked."""
    assert isinstance(field.path, AffinePath)
    if low := pole(field):
        return OffPole(field, AffinePath("linear", sigma_data=field.path.sigma_data), low)
    return field if field.path.law == Linear() else field.on("linear")


def retimed(teacher: Field) -> Field:
    r"""A trainable copy of a field on the linear path, which at first makes the same samples of the same noise.

    On the linear path it is the field itself. EDM's preconditioner is written for the linear path with the same
    weights, $v = \frac{(t\sigma_d^2 - (1-t))\,x}{\Delta} + \frac{\sigma_d}{\sqrt\Delta} F(\frac{x}{\sqrt\Delta},
    \frac14 \ln\frac{1-t}{t})$ with $\Delta = (1-t)^2 + t^2\sigma_d^2$, which has no pole; only the logarithm's t is
    kept 1e-5 from the ends. Any other affine path is changed by `core.OnPath`, and where a velocity formed of the
    network's output has a pole at the noise, by `OffPole`.

    Args:
        teacher: On an affine path.

    Raises:
        OptionError: For a network without a path, or a path that is not affine.
    """
    if not isinstance(teacher, Field):
        raise OptionError(
            f"The teacher must be a Field or a Run, got {type(teacher).__name__}. A network alone does not say on "
            "which path it was trained: Field(net, path='edm', predicts='edm')."
        )
    if not isinstance(teacher.path, AffinePath):
        raise OptionError(f"Only an affine path can be straightened so, not {type(teacher.path).__name__}.")
    student = copy.deepcopy(teacher).requires_grad_(True)
    low = pole(student)
    student.shift, student.gaussian = 1.0, bool(low) and student.gaussian
    if teacher.path.law == Linear() and not low:
        return student
    linear = AffinePath("linear", sigma_data=teacher.path.sigma_data)
    if type(student) is Field and isinstance(student.net, EDM) and student.predicts == "edm":
        net = EDM(student.net.net, "linear", student.net.sigma_data, clip=1e-5)
        return Field(
            net, linear, "edm", gaussian=False, shape=teacher.shape, value_range=teacher.value_range
        )  # fmt: skip
    return OffPole(student, linear, low) if low else OnPath(student, linear)
