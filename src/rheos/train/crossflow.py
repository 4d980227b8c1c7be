r"""Cross-modal flows: one modality flows into another, without noise as the source and without cross-attention.

A sample c of the source becomes a latent of the target's shape, $z_0 = \mu(c) + \sigma(c) \odot \epsilon$, and flows to
the target z_1 on a straight line,

$$x_t = (1 - (1 - \sigma_{min}) t)\, z_0 + t\, z_1, \qquad u = z_1 - (1 - \sigma_{min})\, z_0.$$

Encoder and flow train together: gradients reach the encoder through $z_0$ in both $x_t$ and u. Guidance has no empty
text; a share of the rows gets the indicator "unconditional" and the target of another such row.

Reference: Flowing from Words to Pixels, Liu et al. (2025), https://arxiv.org/abs/2412.15213
"""

from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.base import Cond, Loss
from rheos.core.couplings import Independent
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching, Plan
from rheos.core.paths import AffinePath
from rheos.core.schedules import Linear
from rheos.core.sources import Gaussian
from rheos.core.state import State
from rheos.core.times import shifted
from rheos.data.dataset import Data
from rheos.nets.source_encoder import SourceEncoder
from rheos.nets.tower import Tower
from rheos.train.crosschecks import check_parts, look
from rheos.train.crosslegacy import AheadEuler
from rheos.train.crosslosses import SourceLosses, contrast, kl
from rheos.train.crossnet import CONDITIONAL, INDICATOR, SIGMA_MIN, CrossNet, Start, cross_net
from rheos.train.crossuse import combine, flow, generate, interpolate, start
from rheos.train.textcode import fit_texts

__all__ = [
    "INDICATOR", "AheadEuler", "CrossFlow", "CrossNet", "SourceLosses", "combine", "contrast", "cross_field",
    "cross_net", "fit_texts", "flow", "generate", "interpolate", "kl", "permuted", "start",
]  # fmt: skip

AUTO = "auto"
"""The mask called "SOURCE_mask", where the data carry one."""
_SHOWN = "shown target"  # no name of a network's condition has a space


def cross_field(
    net: nn.Module,
    encoder: SourceEncoder,
    tower: Tower | None = None,
    *,
    spread: float | None = None,
    sigma_min: float = SIGMA_MIN,
) -> Field:
    """A field from an encoded source to a target; `CrossNet` has further options.

    Args:
        net: The network, with `classes=1` for guidance.
        encoder: Of the source.
        tower: Of the target, for the contrastive loss.
        spread: None for a variational encoder; a number for a fixed standard deviation, 0 for none.
        sigma_min: How much of the source is left at t = 1.

    Example:
        >>> from rheos import nets
        >>> made = cross_field(nets.MLP(64, classes=1), nets.VectorEncoder(135, (1, 8, 8)), nets.VectorTower(64))
        >>> made.gaussian, sorted(made.conditions)
        (False, ['indicator'])
    """
    whole = CrossNet(net, encoder, tower=tower, spread=spread)
    return Field(whole, AffinePath(Linear(sigma_min)), gaussian=False)


def permuted(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """A cyclic shift among the chosen rows: which row each row's target comes from, and which rows stay chosen.

    One row alone has no other target to take, so it is chosen no more. Nothing is read back from an accelerator.

    Args:
        chosen: (B,) bool.

    Example:
        >>> permuted(torch.tensor([True, False, True, True]))[0]
        tensor([2, 1, 3, 0])
    """
    count = chosen.sum()
    order = chosen.logical_not().to(torch.uint8).argsort(stable=True)  # the chosen first, in their order
    rank = torch.arange(len(chosen), device=chosen.device)
    follower = torch.where(rank < count, (rank + 1) % count.clamp(min=1), rank)
    index = torch.empty_like(order).scatter_(0, order, order[follower])
    return index, chosen & (count > 1)


@final
@dataclass(frozen=True)
class CrossFlow:
    """Flow matching from an encoded source, with the losses of its encoder; for a field of a `CrossNet`.

    Args:
        source: Column of the data with the source.
        mask: Column with the mask of its tokens, (B, L), or None for none. "auto": the one called like the source with
            "_mask" behind, where the data carry it.
        flow: How the flow is learned: times, premetric, weight. Its source, coupling and dropout have no meaning here.
        losses: Of the encoder.
        unconditional: Share of rows trained as unconditional, whose targets are permuted among themselves; it needs a
            network with an indicator, and such a network needs it.
        detach_source: Keep the flow's gradient from the encoder, which then learns from its own losses alone.
        shown: Column of what the tower looks at (pictures, where the flow is in latents); None: the target itself.

    Raises:
        OptionError: For a share outside [0, 1), or a `flow` with a source, coupling or dropout of its own.

    Example:
        >>> CrossFlow(unconditional=0.2).consumes
        ('embedding', 'embedding_mask')
    """

    source: str = "embedding"
    mask: str | None = AUTO
    flow: FlowMatching = field(default_factory=lambda: FlowMatching(times="logit-normal", dropout=0.0))
    losses: SourceLosses = field(default_factory=SourceLosses)
    unconditional: float = 0.1
    detach_source: bool = False
    shown: str | None = None

    gaussian = False
    """The source is no noise, so scores and SDEs have no meaning."""

    def __post_init__(self) -> None:
        if not 0 <= self.unconditional < 1:
            raise OptionError(f"unconditional must lie in [0, 1), got {self.unconditional}.")
        parts = self.flow.parts
        if parts.source != Gaussian() or not isinstance(parts.coupling, Independent) or self.flow.dropout:
            raise OptionError(
                "The source of a cross-modal flow is encoded, in the pairs of the data, and its unconditional rows are "
                "this objective's: leave source and coupling of flow= as they are, and set dropout=0."
            )

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns that the network does not get; a mask that is looked for by itself may be absent."""
        mask = f"{self.source}_mask" if self.mask == AUTO else self.mask
        names = (self.source, mask, self.losses.positives, self.shown)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def provides(self) -> dict[str, int]:
        """Conditions of the network that come from here, with their values for sampling."""
        return {INDICATOR: CONDITIONAL}

    @property
    def asks(self) -> tuple[str, ...]:
        """What flows begin at: the source, and the mask of its tokens."""
        return tuple(name for name in (self.source, self.mask) if name is not None and name != AUTO)

    def mask_among(self, names: Container[str]) -> str | None:
        """The column of the mask, among columns that there are; None for none."""
        if self.mask != AUTO:
            return self.mask
        name = f"{self.source}_mask"
        return name if name in names else None

    def suggest(self, data: Data) -> Field:
        """A small network and encoder for the data, with what the losses need.

        Raises:
            ConditionError: If the data have no such column.
        """
        from rheos.train.crosssuggest import cross_for

        return cross_for(data, self)

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "CrossFlow":
        """Look at sources before any work is done, and settle whether they have a mask; nothing is measured.

        Raises:
            OptionError: If all sources are the same.

        Warns:
            RuntimeWarning: If their numbers are much smaller than one.
        """
        look(self._column(cond, self.source), self._mask(cond))
        return replace(self, mask=self.mask_among(cond))

    def _column(self, cond: Cond, name: str) -> Tensor:
        if name not in cond:
            known = ", ".join(sorted(cond)) or "none"
            raise ConditionError(
                f"CrossFlow wants the column {name!r}, which the batch lacks; it has: {known}. Loading with embed=... "
                "makes one of captions, and conditions=[...] carries a column that is there."
            )
        return cond[name]

    def _mask(self, cond: Cond) -> Tensor | None:
        name = self.mask_among(cond)
        return None if name is None else self._column(cond, name)

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Draw noise and times, choose the unconditional rows and permute their targets.

        Raises:
            OptionError: If network and objective do not fit each other.
            ShapeError: For a target with parts.
        """
        net = cross_net(field)
        check_parts(net, self.losses, self.unconditional)
        if isinstance(x1, dict):
            raise ShapeError(f"A cross-modal flow ends in a tensor, got a state with parts {sorted(x1)}.")
        n = len(draws)
        for name in (self.source, self.mask_among(cond), self.losses.positives, self.shown):
            if name is not None:
                self._column(cond, name)
        target = net.encode(x1, draws.fold("target"))
        t = shifted(self.flow.parts.times, field.shift).sample(n, draws.fold("times"))
        carried = dict(cond)
        if self.losses.contrastive:  # what the source belongs to, also where the flow goes elsewhere
            carried[_SHOWN] = target if self.shown is None else cond[self.shown]
        if self.unconditional:
            chosen = draws.to(target.device).uniform("unconditional") < self.unconditional
            index, chosen = permuted(chosen)
            target, carried[INDICATOR] = target[index], chosen.to(torch.int64)
        noise = Gaussian()(target, cond, draws.fold("source"))
        w = torch.full((n,), 1 / n, dtype=torch.float64, device=draws.seed.device)
        return Plan(noise, target, t, carried, w)

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row; the log has the parts. Sources are contrasted within the rows that are given."""
        net = cross_net(field)
        cond = plan.cond
        begun = net.start(cond[self.source], self._mask(cond), cast(Tensor, plan.x0))
        kept = {name: v for name, v in cond.items() if name != _SHOWN and name not in self.consumes}
        z = begun.z.detach() if self.detach_source else begun.z
        told = self._flow_loss(field, plan._replace(x0=z, cond=kept))
        rows = told.rows
        logs: dict[str, Tensor | float] = {
            "loss_flow": rows.detach().mean(),
            "source_std": begun.z.detach().std(),
            "clamped": begun.clamped.mean(),
            **told.logs,
        }
        for name, part in self._encoder_losses(net, begun, cond, logs).items():
            logs[name] = part.detach().mean()
            rows = rows + getattr(self.losses, name) * part.to(rows)
        return Loss(rows, told.weight, logs)

    def _flow_loss(self, field: Field, plan: Plan) -> Loss:
        """Of the flow: at one resolution, or a weighted sum over those of a network that has several."""
        weights = getattr(cross_net(field).net, "scale_weights", None)
        if weights is None:
            return self.flow.loss(field, plan)
        from rheos.train.crossscales import scaled_loss

        return scaled_loss(self.flow, field, plan, weights)

    def _encoder_losses(
        self, net: CrossNet, begun: Start, cond: Cond, logs: dict[str, Tensor | float]
    ) -> dict[str, Tensor]:
        losses, parts = self.losses, {}
        if losses.kl:
            parts["kl"] = kl(begun.mean, begun.log_variance, losses.form)
        if losses.contrastive:
            assert net.tower is not None
            assert net.log_scale is not None
            group = cond[losses.positives] if losses.positives else None
            parts["contrastive"], hit = contrast(begun.z, net.tower(cond[_SHOWN]), net.log_scale, group)
            logs["contrastive_accuracy"] = hit.mean()
        if losses.reconstruction:
            assert net.decoder is not None
            wanted = cond[self.source].flatten(1)
            told = net.decoder(begun.z.flatten(1))
            if told.shape != wanted.shape:
                raise ShapeError(f"The decoder gives {tuple(told.shape)} for sources of {tuple(wanted.shape)} numbers.")
            parts["reconstruction"] = functional.mse_loss(told, wanted.to(told), reduction="none").mean(1)
        return parts

    def starts(self, field: Field, x1: State, cond: Cond, draws: Draws, temperature: float = 1.0) -> State:
        """Where flows of these sources begin."""
        net = cross_net(field)
        noise = cast(Tensor, Gaussian()(net.encode(cast(Tensor, x1)), cond, draws))
        return net.begin(self._column(cond, self.source), self._mask(cond), noise).at(temperature)

    def shows(self, field: Field, x: State) -> Tensor:
        """What of a state a training shows."""
        return cross_net(field).decode(cast(Tensor, x))

    def without_guidance(self) -> "CrossFlow":
        """The same objective for a network without an indicator."""
        return replace(self, unconditional=0.0)
