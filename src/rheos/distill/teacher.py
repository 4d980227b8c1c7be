r"""A frozen field whose guided velocity others learn from.

$v = v_\varnothing + w (v_c - v_\varnothing)$: a student that learns it has the guidance in its weights, and is called
once a step. Papers that write $(1 + \omega) v_c - \omega v_\varnothing$ mean $w = 1 + \omega$.
"""

import math
from collections.abc import Mapping
from typing import cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError
from rheos.core.field import Field
from rheos.core.query import Query
from rheos.core.state import expand
from rheos.distill.inherited import field_of
from rheos.distill.pairs import fingerprint
from rheos.train import Run

__all__ = ["Teacher", "field_of", "refuse_shared"]


@final
class Teacher:
    """A field, its guidance, and nothing that changes.

    A run's configuration names it by a fingerprint of its weights; reading the objective back wants the object itself.

    Args:
        field: The field, or a run; it is set to evaluation and never trained.
        guidance: w, or several: each row of a batch gets one at random. 1 is the conditional field, one call.
        negative: Conditions in the place of the null ones, one row each.

    Raises:
        OptionError: For no guidance at all, or one that is not finite, or guidance of a field without conditions.
        ConditionError: For negative conditions that the field does not take.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> teacher = Teacher(GaussianMixtureField([[2.0]], [0.5]))
        >>> teacher.velocity(torch.zeros(1, 1), torch.zeros(1, dtype=torch.float64), {})
        tensor([[2.]])
    """

    def __init__(
        self,
        field: Field | Run,
        guidance: float | tuple[float, ...] = 1.0,
        negative: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.field = field_of(field)
        scales = (guidance,) if isinstance(guidance, int | float) else tuple(guidance)
        if not scales or not all(math.isfinite(w) for w in scales):
            raise OptionError(f"guidance is one finite number or several, got {guidance!r}.")
        self.guidance = tuple(float(w) for w in scales)
        self.negative = dict(negative or {})
        if not self.plain and not self.field.conditions:
            raise OptionError(f"guidance {self.guidance} needs a conditional teacher; this one takes no conditions.")
        if unknown := sorted(self.negative.keys() - self.field.conditions):
            raise ConditionError(f"The teacher does not take the negative conditions {', '.join(unknown)}.")
        self._print: str | None = None

    @property
    def plain(self) -> bool:
        """Whether there is nothing to guide: one call a velocity."""
        return self.guidance == (1.0,)

    @property
    def scale(self) -> float:
        """The guidance that a student will hold; the mean of several."""
        return sum(self.guidance) / len(self.guidance)

    @property
    def config(self) -> dict[str, object]:
        """What tells this teacher from another."""
        if self._print is None:
            self._print = fingerprint(self.field, self.negative)
        return {"guidance": list(self.guidance), "fingerprint": self._print}

    def scales(self, n: int, draws: Draws) -> Tensor:
        """One of the guidance scales for each row, (n,) float64."""
        table = torch.tensor(self.guidance, dtype=torch.float64, device=draws.seed.device)
        pick = (draws.uniform("guidance") * len(self.guidance)).long().clamp_(max=len(self.guidance) - 1)
        return table[pick].expand(n)

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor, cond: Cond, scales: Tensor | None = None) -> Tensor:
        """The guided velocity at (x, t), without gradient; one network call, on twice the rows where it is guided.

        Args:
            x: State.
            t: Times, (B,) float64.
            cond: Conditions, rows first; those that the teacher does not take are left out.
            scales: w a row; the mean of `guidance` unless given.
        """
        field = self.field
        if field.device != x.device:
            field.to(x.device)
        if field.training:
            field.eval()
        given = {name: v for name, v in cond.items() if name in field.conditions}
        if self.plain and scales is None:
            return _ask(field, x, t, given)
        n = len(x)
        null = {**field.null({k: v for k, v in given.items() if k not in self.negative}), **self._negative(n, x)}
        both = {name: torch.cat((v, null[name].to(v))) for name, v in given.items()}
        guided, plain = _ask(field, torch.cat((x, x)), torch.cat((t, t)), both).chunk(2)
        w = torch.full((n,), self.scale, dtype=torch.float64, device=x.device) if scales is None else scales
        return torch.lerp(plain, guided, cast(Tensor, expand(w, x)))

    def _negative(self, n: int, x: Tensor) -> Cond:
        return {name: v.to(x.device).expand(n, *v.shape[1:]) for name, v in self.negative.items()}


def _ask(field: Field, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    low, high = field.finite
    inside = t if (low, high) == (0.0, 1.0) else t.clamp(low, high)
    return cast(Tensor, field.answer(Query(x, inside, (inside, inside), cond, "velocity")).value)


def refuse_shared(field: Field, teacher: Teacher) -> None:
    """Raise `OptionError` if the student is the teacher: its targets would move with it."""
    if field is teacher.field or field.net is teacher.field.net:
        raise OptionError(
            "The student is the teacher itself. Train a copy: copy.deepcopy(teacher).requires_grad_(True)."
        )
