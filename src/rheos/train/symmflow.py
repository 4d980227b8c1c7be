r"""Symmetrical flow matching: one model that generates, segments and classifies.

A pair of a picture x and its semantics y (an encoded label or mask) flows in opposite directions: along t the picture
goes from noise to data while the semantics go from data to noise,

$$x_t = (1 - \kappa t)\, \xi_x + t\, x, \qquad y_t = (1 - \kappa t)\, y + t\, \xi_y, \qquad \kappa = 1 - \sigma_{min},$$

with independent $\xi_x, \xi_y \sim N(0, I)$ and one shared t. Forwards from (noise, label) it generates; backwards from
(picture, noise) it labels. Fresh noise on both ends keeps generation diverse, and y need not have the picture's shape.

Reference: Symmetrical Flow Matching, Caetano et al. (2026), https://arxiv.org/abs/2506.10634
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Context, Loss, Premetric, Source, TimeDistribution
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.objectives import Plan
from rheos.core.premetrics import premetric
from rheos.core.query import Query
from rheos.core.state import State
from rheos.core.times import TwoTimes, shifted, times
from rheos.data.dataset import Data
from rheos.train.pairnet import IMAGE, NOISES, SEMANTICS, Noise, PairNet, pair_field, pair_net, pair_path, quiet
from rheos.train.semantics import SemanticCodec
from rheos.train.symmuse import Reading, begin, edit, generate, label, read
from rheos.train.widening import TextFree, doubled

__all__ = [
    "Coded", "PairNet", "Reading", "SymmFlow", "TextFree", "doubled", "edit", "generate", "label", "pair_field",
    "pair_path", "read",
]  # fmt: skip

IGNORED = "ignored pixels"  # no name of a network's condition has a space


@final
@dataclass(frozen=True)
class SymmFlow:
    r"""$w\,\overline{\lVert v_x - u_x \rVert^2} + (1 - w)\,\overline{\lVert v_y - u_y \rVert^2}$.

    Each mean is over its own elements. An objective for a field of a `PairNet`, whose codec encodes the labels.

    Args:
        column: Of the data, with labels or masks.
        image_weight: w in [0, 1]; the paper has 0.5, and 0.7 for its masks. At 1 the semantics are not learned.
        times: A `TimeDistribution` of one time, or its name.
        noise: Which ends have noise: "both", "image" or "semantics"; the other side ends at zero. The paper's model has
            both: with none at the semantics' end labelling is deterministic, with none at the picture's generation is.
        premetric: A `Premetric` on predictions, or its name; it compares each part by itself.

    Raises:
        OptionError: For a weight outside [0, 1], or a law of two times.
        UnknownOptionError: For an unknown name.

    Example:
        >>> SymmFlow(image_weight=0.7).consumes
        ('label',)
    """

    column: str = "label"
    image_weight: float = 0.5
    times: TimeDistribution | str = "uniform"
    noise: Noise = "both"
    premetric: Premetric | str = "mse"

    def __post_init__(self) -> None:
        if not 0 <= self.image_weight <= 1:
            raise OptionError(f"image_weight must lie in [0, 1], got {self.image_weight}.")
        check_choice("noise", self.noise, NOISES)
        object.__setattr__(self, "times", times(self.times))
        if isinstance(self.times, TwoTimes):
            raise OptionError("Picture and semantics share one time a row; TwoTimes is for flow maps.")
        object.__setattr__(self, "premetric", premetric(self.premetric))
        if cast(Premetric, self.premetric).on == "data":
            raise OptionError("SymmFlow compares predictions: a metric of data estimates has no meaning for labels.")

    gaussian = False
    """The semantics at t = 0 are no noise, so scores and SDEs have no meaning."""

    @property
    def consumes(self) -> tuple[str, ...]:
        """The column of labels: it is a part of the state, not a condition."""
        return (self.column,)

    @property
    def asks(self) -> tuple[str, ...]:
        """What pictures are generated from: the same column."""
        return (self.column,)

    def suggest(self, data: Data) -> Field:
        """A small network for the data, and one-hot codes of their labels or masks.

        Raises:
            ConditionError: If the data have no such column.
        """
        from rheos.train.symmrecipe import pair_for

        field = pair_for(data, self.column)
        self.introduce(field)
        return field

    def introduce(self, field: Field) -> None:
        """Tell the network which ends have noise, for everything that uses the flow afterwards."""
        pair_net(field).noise = self.noise

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "SymmFlow":
        """Nothing depends on the data."""
        return self

    def ends(self, field: Field, x1: State, cond: Cond, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The states at t = 0 and t = 1: (noise, code) and (picture, noise).

        Raises:
            ConditionError: If the batch has no such column.
            ShapeError: If x1 has parts.
        """
        net, labels = pair_net(field), self._column(cond)
        if isinstance(x1, dict):
            raise ShapeError(f"SymmFlow pairs tensors with labels, got a state with parts {sorted(x1)}.")
        x = net.encode(x1, draws.fold("picture"))
        y = net.codec.encode(labels, tuple(x1.shape[1:]), draws.fold("code")).to(x)
        xi = cast(dict[str, Tensor], draws.normal({IMAGE: x, SEMANTICS: y}, "noise"))
        xi = {name: torch.zeros_like(v) if name in quiet(self.noise) else v for name, v in xi.items()}
        return {IMAGE: xi[IMAGE], SEMANTICS: y}, {IMAGE: x, SEMANTICS: xi[SEMANTICS]}

    def _column(self, cond: Cond) -> Tensor:
        if self.column not in cond:
            known = ", ".join(sorted(cond)) or "none"
            raise ConditionError(
                f"SymmFlow learns the column {self.column!r}, which the batch lacks; it has: {known}. "
                f"Load the data with conditions=[{self.column!r}]."
            )
        return cond[self.column]

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Encode labels, draw noises and times."""
        start, end = self.ends(field, x1, cond, draws)
        rest = {name: v for name, v in cond.items() if name != self.column}
        ignored = getattr(pair_net(field).codec, "ignored", lambda labels: None)(cond[self.column])
        if ignored is not None:
            rest[IGNORED] = ignored
        n = len(draws)
        t = shifted(self.times, field.shift).sample(n, draws.fold("times"))
        return Plan(start, end, t, rest, torch.full((n,), 1 / n, dtype=torch.float64, device=draws.seed.device))

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row; the log has both parts."""
        cond = {name: v for name, v in plan.cond.items() if name != IGNORED}
        sample = field.path.sample(plan.x0, plan.x1, plan.t)
        kind = field.predicts
        told = field.answer(Query(sample.xt, plan.t, (plan.t, plan.t), cond, kind, grad=torch.is_grad_enabled())).value
        told, wanted = (cast(dict[str, Tensor], v) for v in (told, field.path.target(sample, kind)))
        metric, context = cast(Premetric, self.premetric), Context(sample.xt, cast(Tensor, plan.t))
        first = metric(told[IMAGE], wanted[IMAGE], context)
        second, target = told[SEMANTICS], wanted[SEMANTICS]
        if IGNORED in plan.cond:  # no difference where there is no class, and the mean over the rest
            hole = plan.cond[IGNORED][:, None]
            share = hole.double().mean((1, 2, 3)).to(second)
            second = metric(torch.where(hole, target, second), target, context) / (1 - share).clamp(min=1e-3)
        else:
            second = metric(second, target, context)
        w = self.image_weight
        logs = {"loss_image": first.detach().mean(), "loss_semantics": second.detach().mean()}
        return Loss(w * first + (1 - w) * second, plan.weight.to(first), logs)

    def starts(self, field: Field, x1: State, cond: Cond, draws: Draws, temperature: float = 1.0) -> State:
        """Where pictures of labels begin, as in `generate`: noise (or zero, see `noise`), and the label's code.

        A temperature scales the picture's noise, and below 1 the code's too: 0 is one picture a label.

        Raises:
            ConditionError: If there is no such column.
        """
        return begin(field, self._column(cond), tuple(cast(Tensor, x1).shape[1:]), draws, temperature)

    def shows(self, field: Field, x: State) -> Tensor:
        """What of a state a training shows: the picture."""
        return pair_net(field).decode(cast(dict[str, Tensor], x)[IMAGE])


@final
@dataclass(frozen=True)
class Coded(Source):
    """A column's codes as x0: the direct flow between semantics and pictures of SemFlow, without noise of its own.

    The baseline of `SymmFlow`: one tensor state, codes of the picture's shape. Use it with `GivenPairs`.

    Args:
        codec: Of maps or masks with the picture's shape.
        column: Of the data, with labels or masks.

    Reference: SemFlow, Wang et al. (2024), https://arxiv.org/abs/2405.20282
    """

    codec: SemanticCodec
    column: str = "label"

    @property
    def consumes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Codes, with their dequantisation noise.

        Raises:
            ConditionError: If the batch has no such column.
            ShapeError: If a code has not the picture's shape.
        """
        if self.column not in cond:
            raise ConditionError(f"The source is the code of {self.column!r}, which the batch lacks.")
        if isinstance(like, dict):
            raise ShapeError(f"Codes are the source of a tensor, not of a state with parts {sorted(like)}.")
        code = self.codec.encode(cond[self.column], tuple(like.shape[1:]), draws)
        if code.shape != like.shape:
            raise ShapeError(
                f"A direct flow needs codes of the picture's shape {tuple(like.shape[1:])}, got "
                f"{tuple(code.shape[1:])}. SymmFlow does not."
            )
        return code.to(like)
