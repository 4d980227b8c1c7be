r"""The divergence of a velocity field, walked along with the state.

The divergence is the trace of the Jacobian J, so the sum of $e^\top J e$ over the unit vectors e; Hutchinson's estimate
takes random $\epsilon$ with $E\, \epsilon \epsilon^\top = I$ instead. Each form costs one backward pass through the one
call that gives the velocity. No forward-mode derivative or `vmap` is needed, so any network serves.

Reference: A stochastic estimator of the trace of the influence matrix, Hutchinson (1989); FFJORD, Grathwohl et al.
    (2019), section 3.1.
"""

import math
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import Time
from rheos.core.query import Query, Reply
from rheos.core.routed import Wrapped
from rheos.core.state import flat_rows

__all__ = ["NOISES", "PROBE", "Augmented", "draw_probes"]

NOISES = ("rademacher", "gaussian")
PROBE = "probes of the divergence"
"""Carries the probes among the conditions, so that they follow their rows; no keyword can have this name."""
BLOCK = 2**16
"""Numbers of a batch up to which it is copied, so that one backward pass serves several vectors: on small data the
overhead of a pass costs more than its arithmetic."""


@final
class Augmented(Wrapped):
    r"""The flow of (x, gain) with $\frac{d}{dt} \text{gain} = \nabla \cdot v$, a column a probe.

    Args:
        base: The flow of x.
        exact: Whether the divergence is exact, or estimated by the probes among the conditions.
        keep: Whether values keep their graph.
    """

    def __init__(self, base: Field, exact: bool, keep: bool) -> None:
        super().__init__(base)
        self.exact, self.keep = exact, keep
        self.conditions = base.conditions if exact else base.conditions | {PROBE}

    @property
    def finite(self) -> tuple[float, float]:
        """Everywhere: beyond the inner field's range the velocity at its end is used."""
        return 0.0, 1.0

    def null(self, cond: Cond) -> Cond:
        """The inner field's null conditions, beside the same probes."""
        own = {PROBE: cond[PROBE]} if PROBE in cond else {}
        return {**self.base.null({n: v for n, v in cond.items() if n != PROBE}), **own}

    def answer(self, q: Query) -> Reply:
        """The velocity and its divergence, from one call."""
        x = cast("dict[str, Tensor]", q.x)["x"]
        cond = {n: v for n, v in q.cond.items() if n != PROBE}
        count = math.prod(x.shape[1:]) if self.exact else q.cond[PROBE].shape[1]
        copies = min(count, max(1, BLOCK // max(1, x.numel())))
        with torch.enable_grad():
            if not (self.keep and x.requires_grad):
                x = x.detach().requires_grad_(True)
            at = _repeat(x, copies)
            asked = q._replace(
                x=at,
                t=_repeat(self._inside(q.t), copies),
                span=(_repeat(q.span[0], copies), _repeat(q.span[1], copies)),
                cond={n: _repeat(v, copies) for n, v in cond.items()},
                grad=True,
            )
            value = cast(Tensor, self.base.answer(asked).value)
            blocks = [range(k, min(k + copies, count)) for k in range(0, count, copies)]
            forms = torch.cat([self._forms(value, at, self._vectors(q, x, block)) for block in blocks])
        gain = forms.sum(0)[:, None] if self.exact else forms.T
        v = value[: len(x)]
        return Reply({"x": v if self.keep else v.detach(), "gain": gain})

    def _inside(self, t: Time) -> Time:
        low, high = self.base.finite
        return t.clamp(low, high) if isinstance(t, Tensor) else min(max(cast(float, t), low), high)

    def _vectors(self, q: Query, x: Tensor, block: range) -> Tensor:
        """(K, B, ...): some probes, or unit vectors."""
        if not self.exact:
            return q.cond[PROBE][:, block.start : block.stop].transpose(0, 1)
        unit = x.new_zeros(len(block), x[0].numel())
        unit.diagonal(block.start).fill_(1.0)
        return unit[:, None].expand(-1, len(x), -1).reshape(len(block), *x.shape)

    def _forms(self, value: Tensor, at: Tensor, vectors: Tensor) -> Tensor:
        r"""(K, B) float64: $e^\top J e$ of each row, for vectors e of shape (K, B, ...)."""
        e = vectors.reshape(-1, *vectors.shape[2:])
        spare = len(at) - len(e)  # copies that the last block does not need
        given = torch.cat((e, e.new_zeros(spare, *e.shape[1:]))) if spare else e
        pulled = None
        if value.requires_grad:
            (pulled,) = torch.autograd.grad(
                value, at, given.to(value.dtype), retain_graph=True, create_graph=self.keep, allow_unused=True
            )
        if pulled is None:
            raise OptionError(
                "A likelihood differentiates the velocity in x, but the output of this "
                f"{type(self.base).__name__} of a {type(self.base.net).__name__} does not depend on x: it detaches x, "
                "runs under no_grad, or is constant. Remove the detach."
            )
        return flat_rows(pulled[: len(e)] * e).sum(1, dtype=torch.float64).reshape(vectors.shape[:2])


def _repeat(v: Time | Tensor, copies: int) -> Any:
    """Rows once more for each copy of the batch; a shared clock serves all."""
    return v.repeat(copies, *(1,) * (v.ndim - 1)) if isinstance(v, Tensor) and v.ndim and copies > 1 else v


def draw_probes(draws: Draws, x: Tensor, probes: int, noise: str) -> Tensor:
    """(B, P, ...) random vectors with unit covariance, keyed by row."""
    out = []
    for k in range(probes):
        if noise == "gaussian":
            out.append(cast(Tensor, draws.normal(x.detach(), "divergence", k)))
        else:
            words = draws.words(math.prod(x.shape[1:]), "divergence", k)
            out.append((words < 0).to(x.dtype).mul_(2.0).sub_(1.0).reshape(x.shape))
    return torch.stack(out, 1)
