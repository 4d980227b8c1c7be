r"""Embedded Runge-Kutta pairs with a step size a row: Dormand-Prince 5(4), Tsitouras 5(4), Bogacki-Shampine 3(2).

Every row has its own step, accepted or refused by its own error, so a sample does not depend on its batch mates.
An interval of the grid is complete when all rows have reached its end.

Reference: Dormand & Prince (1980), Tsitouras (2011), Bogacki & Shampine (1989); step control: Hairer, Norsett,
Wanner (1993), II.4.
"""

from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from rheos.core.errors import NonFiniteError, OptionError, StepSizeError
from rheos.core.paths import Time
from rheos.core.solver import DONE, Ask, Solver, SolverState, weighted
from rheos.core.state import State, device_of, flat_rows, is_finite, map_state, rows, tensors, where_rows

__all__ = ["BogackiShampine", "DormandPrince", "Tsitouras"]


@final
@dataclass(frozen=True)
class Pair:
    """An explicit method whose last stage is the first of the next step, with an estimate of its error.

    Args:
        order: Of the result; the other method of the pair has one less.
        a: Rows of the lower triangle; the last one is the result's weights.
        c: Nodes.
        error: Weights of the difference between both results.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    error: tuple[float, ...]


DOPRI5 = Pair(
    5,
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
BOSH3 = Pair(
    3,
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (0.0, 1 / 2, 3 / 4, 1.0),
    (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
)
TSIT5 = Pair(
    5,
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
            2.324710524099774,
        ),
    ),
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
        0.5823571654525552, -0.45808210592918697, 1 / 66,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Embedded(Solver):
    """A pair with its control of the step.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        most: Most attempts an interval.

    Raises:
        OptionError: For tolerances that are not positive.
        StepSizeError: In a solve whose tolerance cannot be met; names row, time, step and error.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    most: int = 2000

    pair: ClassVar[Pair] = DOPRI5
    adaptive = True

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol > 0):
            raise OptionError(f"Tolerances need rtol >= 0 and atol > 0, got {self.rtol} and {self.atol}.")

    @property
    def order(self) -> int:  # type: ignore[override]
        """Of the accepted result."""
        return self.pair.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Stages of an attempt; one less after the first, which hands its last on."""
        return len(self.pair.c)

    def init(self, x: State) -> SolverState:
        """No step yet, which NaN stands for."""
        unknown = torch.full((rows(x),), torch.nan, dtype=torch.float64, device=device_of(x))
        return {**super().init(x), "h": unknown, "at": unknown, "k": (), "tries": unknown.long()}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval; rows carry their step on from the last one."""
        clock = torch.as_tensor(t, dtype=torch.float64, device=s["h"].device).expand(len(s["h"]))
        return {**s, "t": t, "end": end, "stage": 0, "at": clock, "k": (), "tries": torch.zeros_like(s["tries"])}

    def _left(self, s: SolverState) -> Tensor:
        """What each row still has to go, signed; zero for rows that wait at the end."""
        return cast(Tensor, torch.as_tensor(s["end"], dtype=torch.float64, device=s["at"].device) - s["at"])

    def _step(self, s: SolverState) -> Tensor:
        """The signed step of each row."""
        left = self._left(s)
        return left.sign() * torch.minimum(s["h"], left.abs())

    def ask(self, s: SolverState) -> Ask:
        """The velocity at the next stage, a clock a row."""
        j, span = s["stage"], (s["t"], s["end"])
        if j == 0:
            return Ask(s["x"], s["at"], span, "velocity")
        h = self._step(s)
        return Ask(
            weighted(s["x"], h, self.pair.a[j], s["k"]), self._clip(s["at"] + self.pair.c[j] * h), span, "velocity"
        )

    def _clip(self, t: Tensor) -> Tensor:
        return t.clamp(self.finite[0], self.finite[1])

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Take a stage; after the last, accept or refuse row by row."""
        if s["stage"] == 0:
            if not bool(is_finite(value).all()):
                row = int((~is_finite(value)).nonzero()[0])
                raise NonFiniteError(
                    f"At t = {float(s['at'][row]):.6g} the network returned a NaN or an infinity in row {row}. Check "
                    f"the field and the state there; {type(self).__name__} cannot choose a step from it.",
                    row=row,
                )
            h = torch.where(s["h"].isnan(), self._first_step(s, value), s["h"])
            return {**s, "k": (value,), "h": h, "stage": 1}
        k = (*s["k"], value)
        if len(k) < self.evaluations:
            return {**s, "k": k, "stage": len(k)}
        return self._judge(s, k)

    def _judge(self, s: SolverState, k: tuple[State, ...]) -> SolverState:
        h = self._step(s)
        x = weighted(s["x"], h, self.pair.a[-1], k[:-1])
        error = weighted(map_state(torch.zeros_like, x), h, self.pair.error, k)
        norm = self._norm(error, s["x"], x)
        norm = torch.where(norm.isfinite() & is_finite(x), norm, torch.inf)
        good = norm <= 1
        factor = (0.9 * norm.clamp(min=1e-10) ** (-1 / self.order)).clamp(0.2, 5.0)
        size = torch.where(h != 0, h.abs() * torch.where(good, factor, factor.clamp(max=0.9)), s["h"])
        cut = good & (s["h"] > h.abs())  # a step cut short by the interval's end says little of the next one
        size = torch.where(cut, torch.maximum(size, s["h"]), size)
        at = torch.where(good, s["at"] + h, s["at"])
        end = torch.as_tensor(s["end"], dtype=torch.float64, device=at.device).expand_as(at)
        at = torch.where((end - at).abs() < 1e-12, end, at)
        self._complain(s, size, at, norm, good)
        s = {
            **s,
            "x": where_rows(good, x, s["x"]),
            "k": (where_rows(good, k[-1], k[0]),),  # first same as last
            "at": at,
            "h": size,
            "tries": s["tries"] + 1,
            "stage": 1,
        }
        return {**s, "k": (), "stage": DONE} if bool((at == end).all()) else s

    def _norm(self, error: State, before: State, after: State) -> Tensor:
        """Root mean square of error / tolerance, a row."""

        def part(e: Tensor, a: Tensor, b: Tensor) -> Tensor:
            size = self.atol + self.rtol * torch.maximum(a.abs(), b.abs())
            return flat_rows(e / size).double().square()

        terms = map_state(part, error, before, after)
        return torch.cat(tensors(terms), 1).mean(1).sqrt()

    def _first_step(self, s: SolverState, v: State) -> Tensor:
        """Hairer's guess: 0.01 |x| / |v| in the tolerance's norm."""
        zero = map_state(torch.zeros_like, v)
        size, slope = self._norm(s["x"], s["x"], zero), self._norm(v, s["x"], zero)
        h = torch.where((size < 1e-5) | (slope < 1e-5), 1e-3, 0.01 * size / slope.clamp(min=1e-300))
        return h.clamp(1e-6, 0.1)

    def _complain(self, s: SolverState, size: Tensor, at: Tensor, norm: Tensor, good: Tensor) -> None:
        """Raise when a row's step underflows, or the attempts run out."""
        stuck = ((size < 1e-10) & ~good) | ((s["tries"] >= self.most) & (at != s["end"]))
        if not bool(stuck.any()):
            return
        row = int(stuck.nonzero()[0])
        raise StepSizeError(
            f"The adaptive solver is stuck in row {row} at t = {float(at[row]):.6g}: step {float(size[row]):.3g}, "
            f"error {float(norm[row]):.3g} tolerances, after {int(s['tries'][row]) + 1} attempts. "
            "Loosen rtol and atol, or use a fixed-step solver such as 'heun'.",
            row=row,
            t=float(at[row]),
            step=float(size[row]),
            norm=float(norm[row]),
        )


@final
@dataclass(frozen=True, kw_only=True)
class DormandPrince(Embedded):
    """Order 5 with an embedded order 4; see `Embedded` for its arguments."""


@final
@dataclass(frozen=True, kw_only=True)
class Tsitouras(Embedded):
    """Order 5 with an embedded order 4, with smaller errors than Dormand and Prince's on most problems."""

    pair = TSIT5


@final
@dataclass(frozen=True, kw_only=True)
class BogackiShampine(Embedded):
    """Order 3 with an embedded order 2: cheap at loose tolerances."""

    pair = BOSH3
