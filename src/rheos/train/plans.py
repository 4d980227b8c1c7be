"""What each step trains on: its batch, coupled alone or together with those of its neighbours."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.objectives import Plan
from rheos.data.dataset import Batch
from rheos.train.engine import Engine
from rheos.train.options import Options

__all__ = ["Plans"]


@final
class Plans:
    """Plans by step; a function of the step alone, so that a resumed run sees the same.

    Args:
        engine: Makes a plan of a batch.
        batches: The batch of a step.
        options: `couple` says how many steps share a plan.
    """

    def __init__(self, engine: Engine, batches: Callable[[int], Batch], options: Options) -> None:
        self._engine, self._batches, self._options = engine, batches, options
        self._first = -1  # of the block at hand
        self._shared: list[Plan] | None = None if options.couple == 1 else []

    def __call__(self, step: int) -> Plan:
        """The plan of a step.

        Raises:
            OptionError: If a plan shared by several steps must be differentiated (a learned source).
        """
        if self._shared is None:
            return self._engine.plan(step, self._batches(step))
        couple, first = self._options.couple, step - step % self._options.couple
        if first != self._first:
            self._shared = self._cut(
                self._engine.plan(first, _joined([self._batches(first + k) for k in range(couple)]))
            )
            self._first = first
        return self._shared[step - first]

    def _cut(self, plan: Plan) -> list[Plan]:
        couple, n = self._options.couple, self._options.batch
        if any(isinstance(v, Tensor) and v.requires_grad for v in (plan.x0, plan.x1, *plan.extra.values())):
            raise OptionError(f"couple={couple} shares a plan between steps, but this source is learned. Use couple=1.")
        parts = [plan.slice(k * n, (k + 1) * n) for k in range(couple)]
        return [part._replace(weight=part.weight * couple) for part in parts]


def _joined(batches: list[Batch]) -> Batch:
    cond = {name: torch.cat([b.cond[name] for b in batches]) for name in batches[0].cond}
    return Batch(torch.cat([b.x for b in batches]), cond)
