r"""Matching chords: a velocity that leads from a segment's start straight to its end.

$$ \lVert v_\theta(x_s + a\,(x_t - x_s),\; s + a\,(t - s)) - \tfrac{x_t - x_s}{t - s} \rVert^2 $$

over the segments of a store. With a = 0 it is asked at the starts only, where Euler steps between the store's times
ask: BOSS, with Bellman steps or even ones. With a uniform in [0, 1] it is piecewise rectification (PeRFlow), and plain
reflow where a store has one segment; with a in {0, 1/J, ..., (J-1)/J} there it is J-step distillation of reflow.
Targets are constants: no gradient runs along a trajectory.

Reference: Bellman Optimal Step-size Straightening, Nguyen et al. (2024), section 4.2, https://arxiv.org/abs/2312.16414
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.base import Cond, Context, Loss, Premetric
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError, TimeError
from rheos.core.field import Field
from rheos.core.objectives import Plan
from rheos.core.premetrics import premetric
from rheos.core.query import Query
from rheos.core.state import State, expand
from rheos.distill.segment_store import SegmentStore

__all__ = ["ChordMatching", "chord_errors", "chord_loss"]

COLUMNS = ("x_s", "s", "t")


def chord_loss(
    field: Field,
    x_s: Float[Tensor, "b *d"],
    s: Float[Tensor, "b"],
    x_t: Float[Tensor, "b *d"],
    t: Float[Tensor, "b"],
    **cond: Tensor,
) -> Float[Tensor, "b"]:
    r"""$\lVert v(x_s, s) - (x_t - x_s)/(t - s) \rVert^2$ a row, summed over a sample's numbers.

    Args:
        field: The velocity.
        x_s: Where segments begin.
        s: Their times.
        x_t: Where they end.
        t: Their times, above s.
        **cond: Conditions.

    Raises:
        TimeError: Unless s < t in every row (looked at on a CPU only).
        ShapeError: If the states, or the times, differ in shape.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> still = GaussianMixtureField(means=[[0.0]], stds=[1.0], path="gvp")
        >>> chord_loss(still, torch.ones(2, 1), torch.zeros(2), torch.ones(2, 1), torch.ones(2)).round(decimals=3).abs()
        tensor([0., 0.])
    """
    if x_s.shape != x_t.shape or s.shape != t.shape:
        raise ShapeError(
            f"Segments have ends of one shape, got {tuple(x_s.shape)} and {tuple(x_t.shape)}, times {tuple(s.shape)} "
            f"and {tuple(t.shape)}."
        )
    if s.device.type == "cpu" and not bool((s < t).all()):
        raise TimeError("Segments lead forwards: s < t in every row.")
    value = cast(Tensor, field(x_s, s, **cond))
    return (value - _slope(x_s, s, x_t, t)).flatten(1).square().sum(1)


def _slope(x_s: Tensor, s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    return (x_t - x_s) / cast(Tensor, expand(t - s, x_s))


@final
@dataclass(frozen=True)
class ChordMatching:
    """Train a field on the chords of a segment store; `ChordMatching.of(store)` makes one for it.

    Args:
        grid: The times between which the field will step, which it then remembers (`field.times`); None: it is trained
            at all times.
        positions: J: the field is asked at the shares 0, 1/J, ..., (J - 1)/J of a segment, so 1 asks at starts only;
            None: uniformly.
        premetric: Of velocities; or, if it compares data estimates (a perceptual one), of the ends of the segments.

    Raises:
        OptionError: For positions below 1.
        UnknownOptionError: For an unknown premetric.
    """

    grid: tuple[float, ...] | None = None
    positions: int | None = 1
    premetric: Premetric | str = "mse"

    def __post_init__(self) -> None:
        if self.positions is not None and self.positions < 1:
            raise OptionError(f"positions must be at least 1, or None for uniform ones, got {self.positions}.")
        object.__setattr__(self, "premetric", premetric(self.premetric))

    @classmethod
    def of(cls, store: SegmentStore, positions: int | None = 1, premetric: Premetric | str = "mse") -> "ChordMatching":
        """The objective on a store, with the grid that its field will step on."""
        if positions is None:
            return cls(None, None, premetric)
        ends = store.times
        shares = [a + (b - a) * j / positions for a, b in pairwise(ends) for j in range(positions)]
        return cls((*shares, ends[-1]), positions, premetric)

    @property
    def gaussian(self) -> bool:
        """No: what is learned is no score's velocity."""
        return False

    @property
    def consumes(self) -> tuple[str, ...]:
        """The columns of segments."""
        return COLUMNS

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "ChordMatching":
        """Itself: nothing is measured."""
        return self

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Where the field is asked (x0, and the first column of t), the chord's slope (x1), its end (second of t).

        Raises:
            ConditionError: If the batch has no segments.
        """
        missing = [n for n in COLUMNS if n not in cond]
        if missing:
            raise ConditionError(
                f"Chords are learned from segments, the batch lacks {', '.join(missing)}. "
                "Take the data of a store: rheos.distill.generate_segments(...).data()."
            )
        x_s, s, t = (cond[n] for n in COLUMNS)
        x_t = cast(Tensor, x1)
        share = draws.uniform("position")
        if self.positions is not None:
            share = (share * self.positions).floor() / self.positions
        share = share.to(s)
        x = torch.lerp(x_s, x_t, cast(Tensor, expand(share, x_s)))
        time = torch.stack([s + share * (t - s), t], 1)
        n = len(x)
        weight = torch.full((n,), 1 / n, dtype=torch.float64, device=x.device)
        rest = {name: v for name, v in cond.items() if name not in COLUMNS}
        return Plan(x, _slope(x_s, s, x_t, t), time, rest, weight)

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        assert isinstance(plan.t, Tensor)
        time, end = plan.t.unbind(1)
        x, slope = cast(Tensor, plan.x0), cast(Tensor, plan.x1)
        query = Query(x, time, (time, end), plan.cond, "velocity", grad=torch.is_grad_enabled())
        told = cast(Tensor, field.answer(query).value)
        metric, context = cast(Premetric, self.premetric), Context(x, time)
        if metric.on != "prediction":
            left = cast(Tensor, expand(end - time, x))  # the step's length: velocities are no pictures, ends are
            context = context._replace(data=x + left * told, target=x + left * slope)
        pair = (context.data, context.target) if metric.on == "data" else (told, slope)
        rows = metric(cast(State, pair[0]), cast(State, pair[1]), context)
        return Loss(rows, plan.weight.to(rows))


@torch.no_grad()
def chord_errors(field: Field, store: SegmentStore, batch: int = 1000) -> tuple[float, ...]:
    """The mean `chord_loss` of each segment of a store: on a second store, of other seeds, what was learned.

    Args:
        field: The velocity; its mode is left as it is.
        store: Complete rows are used.
        batch: Rows at a time.
    """
    found = []
    names = store.about["conditions"]
    for k in range(store.segments):
        total = 0.0
        for start in range(0, len(store), batch):
            cut = slice(start, start + batch)
            x_s, x_t = (store.states(j)[cut].to(field.device) for j in (k, k + 1))
            s, t = (torch.full((len(x_s),), store.times[j], dtype=torch.float64) for j in (k, k + 1))
            cond = {n: store.column(n)[cut].to(field.device) for n in names}
            total += float(chord_loss(field, x_s, s.to(x_s.device), x_t, t.to(x_s.device), **cond).double().sum())
        found.append(total / len(store))
    return tuple(found)
