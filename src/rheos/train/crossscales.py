"""The flow's loss of a network that predicts at several resolutions."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from rheos.core.base import Context, Loss
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching, Plan
from rheos.train.crossnet import cross_net

__all__ = ["scaled_loss"]


def scaled_loss(flow: FlowMatching, field: Field, plan: Plan, weights: Sequence[float]) -> Loss:
    """The weighted sum of the losses at each resolution; a coarser target is the fine one averaged down.

    Averaging commutes with the path, so a coarse velocity is the velocity of the coarse pictures.

    Args:
        flow: Its premetric and weight are used.
        field: Of a `CrossNet` whose network has `scales`.
        plan: With z_0 as its x0.
        weights: One a resolution, the coarsest first.

    Raises:
        OptionError: If the premetric looks at data estimates.
    """
    metric = flow.parts.premetric
    if metric.on != "prediction":
        raise OptionError("A loss at several resolutions compares predictions; use a premetric such as 'mse'.")
    kind = flow.loss_on or field.predicts
    if kind != field.predicts:
        raise OptionError(f"A loss at several resolutions compares what the network predicts, {field.predicts!r}.")
    low, high = field.finite
    t = cast(Tensor, plan.t).clamp(low, high)
    sample = field.path.sample(plan.x0, plan.x1, t)
    xt, target = cast(Tensor, sample.xt), cast(Tensor, field.path.target(sample, kind))
    told = cross_net(field).scales(xt, cast(Tensor, field.door(t, xt)), **field.complete(plan.cond, len(xt)))
    rows, logs = target.new_zeros(len(target)), dict(plan.logs)
    for k, (value, w) in enumerate(zip(told, weights, strict=True)):
        factor = target.shape[-1] // value.shape[-1]
        wanted = target if factor == 1 else functional.avg_pool2d(target, factor)
        part = metric(value, wanted, Context(xt, t))
        logs[f"loss_scale_{k}"] = part.detach().mean()
        rows = rows + w * part.to(rows)
    scale = flow.parts.weight.factor(t, field.path, kind)
    rows = rows * torch.as_tensor(scale).to(rows)
    return Loss(rows, plan.weight.to(rows), logs)
