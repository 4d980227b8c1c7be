"""One module for cross-modal flows: the network, the encoder of the source, and what trains the encoder."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from rheos.core import config
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.nets.source_encoder import LOG_VARIANCE, SourceEncoder
from rheos.nets.tower import Tower
from rheos.train.beginnings import check_temperature
from rheos.train.latents import decoded, encoded

__all__ = ["CONDITIONAL", "INDICATOR", "SIGMA_MIN", "CrossNet", "Start", "cross_net"]

INDICATOR = "indicator"
"""The condition that says whether targets belong to their sources: 0, or 1 for the unconditional branch."""
CONDITIONAL = 0
SIGMA_MIN = 1e-5
"""How much of the source is left at t = 1, as in the paper."""

Part = nn.Module | Mapping[str, Any]


class Start(NamedTuple):
    """The law of z_0 for some rows, and a sample of it.

    Args:
        z: A sample, of the target's shape.
        mean: Its mean.
        log_variance: The logarithm of its variance, kept between -30 and 20.
        clamped: (B,): which share of a row's log-variances had to be cut.
    """

    z: Tensor
    mean: Tensor
    log_variance: Tensor
    clamped: Tensor

    def at(self, temperature: float) -> Tensor:
        """The sample with its distance from the mean multiplied by a temperature.

        Raises:
            OptionError: If it is negative.
        """
        check_temperature(temperature)
        return self.z if temperature == 1.0 else self.mean + temperature * (self.z - self.mean)


@final
class CrossNet(nn.Module):
    """A network, the encoder whose latents it starts from, and the encoder's helpers; averaged and saved as one.

    The network has no text: it is called net(x, t), or net(x, t, label=...) with one class, whose embedding is added to
    that of the time. This is the indicator: 0 for pairs, the null label 1 for targets that belong to other sources. It
    makes guidance possible where there is no null text.

    Args:
        net: The network, with `classes=1` for the indicator (without it there is no guidance); or its description.
        encoder: Of the source, or its description.
        tower: Of the target, for the contrastive loss, or its description; None for none.
        decoder: From a latent, flattened, back to the source, flattened, for the reconstruction loss; None for none.
        spread: None: the encoder's own variance. A number: its mean plus Gaussian noise of this standard deviation; 0
            is a deterministic encoder.
        autoencoder: With `encode` and `decode`: targets flow in its latents. Not trained, and in no checkpoint.
        latent_scale: Latents are multiplied by it (0.2301 in the published text-to-image models).

    Raises:
        OptionError: For a network with other labels, a negative spread, or a scale that is not positive.
        ConditionError: If the network has a condition called "indicator".

    Example:
        >>> from rheos import nets
        >>> net = CrossNet(nets.MLP(64, classes=1), nets.VectorEncoder(135, (1, 8, 8)))
        >>> net.null("indicator", 2), sorted(net.conditions)
        (tensor([1, 1]), ['indicator'])
    """

    def __init__(
        self,
        net: Part,
        encoder: Part,
        *,
        tower: Part | None = None,
        decoder: Part | None = None,
        spread: float | None = None,
        autoencoder: Any = None,
        latent_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if spread is not None and not 0 <= spread < math.inf:
            raise OptionError(f"spread is None for a learned variance, or a standard deviation, got {spread}.")
        if not 0 < latent_scale < math.inf:
            raise OptionError(f"latent_scale must be positive and finite, got {latent_scale}.")
        self.net = _built(net, nn.Module, "net")
        self.encoder = cast(SourceEncoder, _built(encoder, SourceEncoder, "encoder"))
        self.tower = None if tower is None else cast(Tower, _built(tower, Tower, "tower"))
        self.decoder = None if decoder is None else _built(decoder, nn.Module, "decoder")
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)])) if tower is not None else None
        self.spread, self.latent_scale = spread, latent_scale
        self._autoencoder = (autoencoder,)  # in a tuple: its weights are not this module's
        own = frozenset(getattr(self.net, "conditions", ()))
        if INDICATOR in own:
            raise ConditionError(f"The network's condition {INDICATOR!r} has the name of the indicator. Rename it.")
        self.guided = "label" in own
        classes = (getattr(self.net, "config", None) or {}).get("classes", 1)
        if self.guided and classes != 1:
            raise OptionError(
                f"The label of a cross-modal network is the indicator, with classes=1; this one has {classes} classes."
            )
        self.conditions: frozenset[str] = (own - {"label"}) | ({INDICATOR} if self.guided else frozenset())
        parts = {"net": self.net, "encoder": self.encoder, "tower": self.tower, "decoder": self.decoder}
        self.config: dict[str, Any] = {
            **{name: config.dump(part) for name, part in parts.items()},
            "spread": spread,
            "autoencoder": config.dump(autoencoder),
            "latent_scale": latent_scale,
        }

    begins = "encoded sources, which rheos.train.crossflow.generate encodes"
    """Where flows begin, for whoever asks for samples of noise."""

    def check_guidance(self, scale: float | None) -> None:
        """Raise `OptionError` where a guided sample would ask for an indicator that is not there."""
        if not self.guided and scale not in (None, 1):
            raise OptionError(
                "Guidance needs an indicator that was trained: a network with classes=1, and "
                "CrossFlow(unconditional=0.1)."
            )

    @property
    def autoencoder(self) -> Any:
        """What targets go through, or None."""
        return self._autoencoder[0]

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return tuple(getattr(self.net, "attentions", ()))

    def forward(self, x: Tensor, t: Tensor, *, taps: tuple[Any, ...] = (), **cond: Tensor) -> Tensor:
        """The network's prediction."""
        return cast(Tensor, self.net(x, t, **self._renamed(cond), **({"taps": taps} if taps else {})))

    def scales(self, x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, ...]:
        """The predictions at every resolution of a network that has several, the coarsest first.

        Raises:
            OptionError: If it has one.
        """
        make = getattr(self.net, "scales", None)
        if make is None:
            raise OptionError(f"{type(self.net).__name__} predicts at one resolution; nets.MultiRes has several.")
        return cast("tuple[Tensor, ...]", make(x, t, **self._renamed(cond)))

    def _renamed(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"label" if name == INDICATOR else name: value for name, value in cond.items()}

    def null(self, name: str, rows: int) -> Tensor:
        """The unconditional indicator, or the wrapped network's own null value.

        Raises:
            ConditionError: If it has none.
        """
        make = getattr(self.net, "null", None)
        if make is None:
            raise ConditionError(f"The network has no null value for {name!r}.")
        return cast(Tensor, make("label" if name == INDICATOR else name, rows))

    def start(self, source: Tensor, mask: Tensor | None, noise: Tensor) -> Start:
        r"""$z_0 = \mu + \sigma \odot \epsilon$.

        Args:
            source: Rows of the source.
            mask: True where a token counts.
            noise: Standard normal, of the latent's shape.

        Raises:
            ShapeError: If encoder and target differ in shape.
        """
        if tuple(noise.shape[1:]) != self.encoder.shape:
            raise ShapeError(
                f"The source's latents have shape {self.encoder.shape}, the target {tuple(noise.shape[1:])}. Build the "
                "encoder with the target's shape; between them there is no flow."
            )
        mean, raw = self.encoder(source, mask)
        mean = mean.to(noise)
        if self.spread is None:
            level = raw.to(noise).clamp(*LOG_VARIANCE)
            clamped = (level != raw).flatten(1).to(noise).mean(1)
            return Start(mean + (0.5 * level).exp() * noise, mean, level, clamped)
        level = torch.full_like(mean, 2 * math.log(self.spread) if self.spread else LOG_VARIANCE[0])
        return Start(mean + self.spread * noise, mean, level, mean.new_zeros(len(mean)))

    @torch.no_grad()
    def begin(self, source: Tensor, mask: Tensor | None, noise: Tensor) -> Start:
        """`start` for sampling: without dropout, and without a graph."""
        mode = self.encoder.training
        self.encoder.eval()
        try:
            return self.start(source, mask, noise)
        finally:
            self.encoder.train(mode)

    def encode(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """The latents of targets; targets themselves where there is no autoencoder."""
        if self.autoencoder is None:
            return x
        with torch.no_grad():
            return encoded(self.autoencoder, x, self.latent_scale, draws=draws)

    def decode(self, z: Tensor) -> Tensor:
        """Targets of latents."""
        if self.autoencoder is None:
            return z
        with torch.no_grad():
            return decoded(self.autoencoder, z, self.latent_scale)


def _built(part: Part, expect: type[nn.Module], name: str) -> nn.Module:
    made = part if isinstance(part, nn.Module) else config.load(dict(part), expect=expect, name=name)
    if not isinstance(made, expect):
        raise OptionError(f"{name} must be a {expect.__name__}, got {type(made).__name__}.")
    return made


def cross_net(field: Field) -> CrossNet:
    """The cross-modal network of a field.

    Raises:
        OptionError: If the field has another kind of network.
    """
    if not isinstance(field.net, CrossNet):
        raise OptionError(
            "This needs a field of a CrossNet, such as crossflow.cross_field(net, encoder); "
            f"got {type(field.net).__name__}."
        )
    return field.net
