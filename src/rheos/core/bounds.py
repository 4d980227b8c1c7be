r"""Objectives beside flow matching: the discrete variational bound and sliced score matching.

Both are drop-in objectives of `train.fit`. The bound is the one of DDPM, in nats a row; as the table grows fine it
tends to flow matching with the weight `Likelihood`. Denoising score matching needs nothing of its own: it is
`FlowMatching` on a field that predicts the score.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Loss
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching, Plan
from rheos.core.paths import AffinePath
from rheos.core.query import Query
from rheos.core.state import State, map_state, rows
from rheos.core.tables import Discrete

__all__ = ["SlicedScoreMatching", "VariationalBound"]


def _row_square(x: State) -> Tensor:
    """|x|^2 of each row, (B,)."""
    parts = map_state(lambda v: v.flatten(1).square().sum(1), x)
    return parts if isinstance(parts, Tensor) else torch.stack(list(parts.values())).sum(0)


@final
@dataclass(frozen=True)
class VariationalBound:
    r"""$L_{vb}$ of a K-step diffusion, one uniformly drawn term a row, unbiased, in nats.

    Step k >= 1: $\tfrac12 (SNR_{k-1} - SNR_k) \lVert x_1 - \hat x_1 \rVert^2$, the divergence of the two posteriors
    of equal variance. Step 0: $-\ln N(x_1; \hat x_1, \sigma_0^2 / \alpha_0^2)$. The divergence of the last marginal
    from N(0, I) has no parameters; `prior` gives it.

    Args:
        dropout: Probability that a row's conditions are replaced by null.

    Reference: Denoising Diffusion Probabilistic Models, Ho et al. (2020), eq. 5 and 13; Variational Diffusion Models,
        Kingma et al. (2021), eq. 13.
    """

    dropout: float = 0.0

    gaussian: ClassVar[bool] = True
    consumes: ClassVar[tuple[str, ...]] = ()

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "VariationalBound":
        """Nothing depends on the data."""
        return self

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """One step k a row.

        Raises:
            OptionError: If the field's schedule is no table.
        """
        table = self._table(field)
        plan = FlowMatching(dropout=self.dropout).prepare(field, x1, cond, draws)
        last = len(table.alpha_bar) - 1
        k = (draws.uniform("step") * (last + 1)).floor().clamp(max=last)
        return plan._replace(t=1 - k / last)

    def _table(self, field: Field) -> Discrete:
        law = field.path.law if isinstance(field.path, AffinePath) else None
        if not isinstance(law, Discrete):
            raise OptionError('The variational bound sums over the steps of a table: use Field(net, "ddpm").')
        return law

    def loss(self, field: Field, plan: Plan) -> Loss:
        """K times the drawn term of each row."""
        table = self._table(field)
        count = len(table.alpha_bar)
        t: Tensor = plan.t  # type: ignore[assignment]
        sample = field.path.sample(plan.x0, plan.x1, t)
        query = Query(sample.xt, t, (t, t), plan.cond, "data", grad=torch.is_grad_enabled())
        gap = _row_square(map_state(torch.sub, plan.x1, field.answer(query).value))
        snr = (2 * table.lam(t)).exp()  # type: ignore[union-attr]
        cleaner = torch.where(t < 1, (2 * table.lam((t + 1 / (count - 1)).clamp(max=1.0))).exp(), snr)  # type: ignore[union-attr]
        elements = sum(v[0].numel() for v in ([plan.x1] if isinstance(plan.x1, Tensor) else plan.x1.values()))
        decoder = 0.5 * gap * snr.to(gap) + 0.5 * elements * (math.log(2 * math.pi) - snr.log()).to(gap)
        terms = torch.where((t < 1).to(gap.device), 0.5 * (cleaner - snr).to(gap) * gap, decoder)
        return Loss(count * terms, plan.weight.to(terms), plan.logs)

    def prior(self, field: Field, x1: State) -> Tensor:
        """KL(q(x_0 | x_1) || N(0, I)) of each row, in nats, (B,)."""
        table = self._table(field)
        a2 = float(table.alpha(0.0)) ** 2
        s2 = 1 - a2
        elements = sum(v[0].numel() for v in ([x1] if isinstance(x1, Tensor) else x1.values()))
        return 0.5 * (a2 * _row_square(x1) + elements * (s2 - 1 - math.log(s2)))


@final
@dataclass(frozen=True)
class SlicedScoreMatching:
    r"""$E\, \sigma^2 [ z^\top \nabla_x (z^\top s_\theta) + \tfrac12 (z^\top s_\theta)^2 ]$ at $x_t$, z random signs.

    It learns the score of the marginals without using the noise that made them; one backward pass more than
    denoising score matching.

    Args:
        slices: Directions z a row.
        dropout: Probability that a row's conditions are replaced by null.

    Raises:
        OptionError: For slices below 1.

    Reference: Sliced Score Matching, Song et al. (2019), eq. 8.
    """

    slices: int = 1
    dropout: float = 0.0

    gaussian: ClassVar[bool] = True
    consumes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise OptionError(f"slices must be at least 1, got {self.slices}.")

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "SlicedScoreMatching":
        """Nothing depends on the data."""
        return self

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Sources, times, and random signs for each row."""
        field.check_score()
        plan = FlowMatching(dropout=self.dropout).prepare(field, x1, cond, draws)
        if not isinstance(x1, Tensor):
            raise OptionError("Sliced score matching takes tensor states.")
        signs = draws.uniform("slices", shape=(self.slices, *x1.shape[1:])).sub_(0.5).sign_().to(x1)
        return plan._replace(extra={"signs": signs})

    def loss(self, field: Field, plan: Plan) -> Loss:
        """The loss of each row, weighted by sigma^2."""
        low, high = field.finite
        t: Tensor = plan.t.clamp(max(low, 1e-3), min(high, 1 - 1e-3))  # type: ignore[union-attr]
        sample = field.path.sample(plan.x0, plan.x1, t)
        signs = plan.extra["signs"]
        sigma = field.path.law.sigma(t)  # type: ignore[attr-defined]
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            x = sample.xt.detach().requires_grad_(True)  # type: ignore[union-attr]
            score = field.answer(Query(x, t, (t, t), plan.cond, "score", grad=True)).value
            total = torch.zeros(rows(x), dtype=x.dtype, device=x.device)
            for k in range(self.slices):
                z = signs[:, k]
                along = (z * score).flatten(1).sum(1)  # type: ignore[operator]
                (slope,) = torch.autograd.grad(along.sum(), x, create_graph=training, retain_graph=True)
                total = total + (z * slope).flatten(1).sum(1) + 0.5 * along.square()
        losses = total / self.slices * sigma.to(total) ** 2
        return Loss(losses if training else losses.detach(), plan.weight.to(losses), plan.logs)
