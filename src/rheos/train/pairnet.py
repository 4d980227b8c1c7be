"""One network over a picture and its semantics: the two are concatenated, and its output is cut in two again."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rheos.core import config
from rheos.core.draws import Draws, Key
from rheos.core.errors import ConditionError, OptionError, ShapeError, TimeError, check_choice
from rheos.core.field import Field
from rheos.core.paths import AffinePath, JointPath
from rheos.core.schedules import Linear
from rheos.core.state import expand
from rheos.nets import time_features
from rheos.train.latents import decoded, encoded
from rheos.train.semantics import SemanticCodec

__all__ = ["IMAGE", "NOISES", "SEMANTICS", "Noise", "PairNet", "pair_field", "pair_net", "pair_path", "quiet"]

IMAGE, SEMANTICS = "image", "semantics"
"""Names of the two parts of a state."""
Noise = Literal["both", "image", "semantics"]
NOISES = ("both", "image", "semantics")
FEATURES = 16
SIGMA_MIN = 1e-4


def quiet(noise: Noise) -> tuple[str, ...]:
    """Parts whose noise is zero."""
    return {"both": (), "image": (SEMANTICS,), "semantics": (IMAGE,)}[noise]


@final
class PairNet(nn.Module):
    """A network of the pair {"image": x, "semantics": y}, with the codec that says what y means.

    A vector beside a picture is spread over it as constant channels, and read off as the mean of its channels.

    Args:
        net: Takes and returns D_x + D_y channels (or numbers); with `config.dump`'s description it is built.
        codec: Of labels or masks, or its description.
        join: "channels" concatenates along the first axis of a sample; "flat" flattens both first, for an MLP.
        adapter: "none": maps have the picture's size, else it is an error; "resize": other sizes are resized to the
            picture's (smaller ones to the nearest pixel, larger ones by area) and back (area).
        copies: Whether each part of the state is added to its own prediction, times a factor of t that is learned and
            zero at first. A velocity holds its own noise, which a narrow network must else carry through all layers.
        time_scale: The network gets t times this: 1 for networks of flows, 1000 for a backbone that was made for steps.
        autoencoder: With `encode` and `decode`: the picture's side flows in its latents (samples of the posterior while
            training). It is not trained, and belongs to no checkpoint.
        latent_scale: Latents are multiplied by it; Stable Diffusion has 0.18215.
        noise: Which ends have noise: "both", "image" or "semantics"; the other's noise is zero. `SymmFlow` sets it when
            its training begins, and everything that uses the flow afterwards obeys it.

    Raises:
        UnknownOptionError: For an unknown join, adapter or noise.
        OptionError: For a scale that is not positive, or a net that is no module.
    """

    def __init__(
        self,
        net: nn.Module | Mapping[str, Any],
        codec: SemanticCodec | Mapping[str, Any],
        *,
        join: Literal["channels", "flat"] = "channels",
        adapter: Literal["none", "resize"] = "none",
        copies: bool = False,
        time_scale: float = 1.0,
        autoencoder: Any = None,
        latent_scale: float = 1.0,
        noise: Noise = "both",
    ) -> None:
        super().__init__()
        check_choice("join", join, ("channels", "flat"))
        check_choice("adapter", adapter, ("none", "resize"))
        if not (0 < time_scale < math.inf and 0 < latent_scale < math.inf):
            raise OptionError(f"Scales must be positive and finite, got {time_scale} and {latent_scale}.")
        self.net: nn.Module = (
            net if isinstance(net, nn.Module) else config.load(dict(net), expect=nn.Module, name="net")
        )
        self.codec: SemanticCodec = (
            codec if isinstance(codec, SemanticCodec) else config.load(dict(codec), expect=SemanticCodec, name="codec")
        )
        self.join, self.adapter, self.time_scale, self.latent_scale = join, adapter, time_scale, latent_scale
        self.gate = nn.Linear(FEATURES, 2) if copies else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
            first = next(self.net.parameters(), None)
            if first is not None:
                self.gate.to(first.device, first.dtype)
        self._autoencoder = (autoencoder,)  # in a tuple: its weights are not this module's
        self.conditions: frozenset[str] = frozenset(getattr(self.net, "conditions", ()))
        self.config: dict[str, Any] = {
            "net": config.dump(self.net),
            "codec": config.dump(self.codec),
            "join": join,
            "adapter": adapter,
            "copies": copies,
            "time_scale": time_scale,
            "autoencoder": autoencoder,  # a custom part of a file
            "latent_scale": latent_scale,
        }
        self.noise = noise

    @property
    def noise(self) -> Noise:
        """Which ends have noise."""
        return cast(Noise, self.config["noise"])

    @noise.setter
    def noise(self, noise: Noise) -> None:
        check_choice("noise", noise, NOISES)
        self.config["noise"] = noise

    def normal(self, like: Tensor, part: str, draws: Draws, word: Key) -> Tensor:
        """Noise of one part: zeros where it is quiet.

        Args:
            like: Its shape, dtype and device count.
            part: "image" or "semantics".
            draws: One stream a row.
            word: Key of the numbers within the streams.
        """
        return torch.zeros_like(like) if part in quiet(self.noise) else cast(Tensor, draws.normal(like, word))

    @property
    def autoencoder(self) -> Any:
        """What pictures go through, or None."""
        return self._autoencoder[0]

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return tuple(getattr(self.net, "attentions", ()))

    def null(self, name: str, rows: int) -> Tensor:
        """That of the wrapped network.

        Raises:
            ConditionError: If it has none: labels are a part of the state here, not a condition.
        """
        make = getattr(self.net, "null", None)
        if make is None:
            raise ConditionError(f"There is no null {name!r}: labels and masks are a part of the state.")
        return cast(Tensor, make(name, rows))

    def encode(self, pictures: Tensor, draws: Draws | None = None) -> Tensor:
        """The picture's side of a state: latents where there is an autoencoder, else the pictures."""
        if self.autoencoder is None:
            return pictures
        with torch.no_grad():
            return encoded(self.autoencoder, pictures, self.latent_scale, draws=draws)

    def decode(self, x: Tensor) -> Tensor:
        """Pictures of the picture's side of a state."""
        if self.autoencoder is None:
            return x
        with torch.no_grad():
            return decoded(self.autoencoder, x, self.latent_scale)

    def forward(
        self, x: dict[str, Tensor], t: Tensor, *, taps: tuple[Any, ...] = (), **cond: Tensor
    ) -> dict[str, Tensor]:
        """The predictions of both parts at one time a row.

        Raises:
            ShapeError: If the parts do not fit each other, or the network.
            TimeError: If t is a time for each part: they share one.
        """
        if not isinstance(x, dict) or x.keys() != {IMAGE, SEMANTICS}:
            came = sorted(x) if isinstance(x, dict) else "a tensor"
            raise ShapeError(
                f"The state is a dict of {IMAGE!r} and {SEMANTICS!r}, got {came}. "
                "Sample with symmflow.generate or label."
            )
        if not isinstance(t, Tensor) or t.ndim != 1:
            raise TimeError("Picture and semantics share one time a row.")
        image, code = x[IMAGE], x[SEMANTICS]
        parts = self._predictions(image, code, t if self.time_scale == 1.0 else t * self.time_scale, cond, taps)
        if self.gate is None:
            return parts
        gates = self.gate(time_features(t, FEATURES).to(self.gate.weight.dtype))
        return {name: v + x[name] * expand(gates[:, k], v) for k, (name, v) in enumerate(parts.items())}

    def _predictions(
        self, image: Tensor, code: Tensor, clock: Tensor, cond: dict[str, Tensor], taps: tuple[Any, ...]
    ) -> dict[str, Tensor]:
        """What the network says of both parts."""
        more = {**cond, "taps": taps} if taps else cond
        if self.join == "flat":
            both = torch.cat((image.flatten(1), code.flatten(1)), 1)
            first, second = self._cut(self.net(both, clock, **more), image[0].numel(), code[0].numel())
            return {IMAGE: first.reshape(image.shape), SEMANTICS: second.reshape(code.shape)}
        both = torch.cat((image, self._beside(code, image)), 1)
        first, second = self._cut(self.net(both, clock, **more), image.shape[1], code.shape[1])
        return {IMAGE: first, SEMANTICS: self._back(second, code)}

    def _beside(self, code: Tensor, image: Tensor) -> Tensor:
        """The code at the picture's size."""
        if code.ndim == image.ndim and code.shape[2:] == image.shape[2:]:
            return code
        if code.ndim == 2 and image.ndim > 2:
            return code.reshape(*code.shape, *(1,) * (image.ndim - 2)).expand(-1, -1, *image.shape[2:])
        if code.ndim == image.ndim == 4 and self.adapter == "resize":
            larger = code.shape[2] > image.shape[2]
            return functional.interpolate(code, image.shape[2:], mode="area" if larger else "nearest")
        raise ShapeError(
            f"The code of shape {tuple(code.shape[1:])} does not lie beside a picture of {tuple(image.shape[1:])}. "
            "Give both one size, or PairNet(..., adapter='resize')."
        )

    def _back(self, value: Tensor, code: Tensor) -> Tensor:
        """The inverse of `_beside` for predictions."""
        if value.shape == code.shape:
            return value
        if code.ndim == 2:
            return value.flatten(2).mean(2)
        return functional.interpolate(value, code.shape[2:], mode="area")

    def _cut(self, value: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
        if value.shape[1] != first + second:
            raise ShapeError(
                f"The network returns {value.shape[1]} channels for a picture of {first} and semantics of {second}. "
                f"Build it for {first + second}."
            )
        return value[:, :first], value[:, first:]


def pair_path(sigma_min: float = SIGMA_MIN) -> JointPath:
    """The path of both parts; which way a part flows is said by its ends, data at t = 1 or at t = 0.

    Args:
        sigma_min: Noise left at the data's end, and data left at the noise's.
    """
    part = AffinePath(Linear(sigma_min))
    return JointPath({IMAGE: part, SEMANTICS: part})


def pair_field(
    net: nn.Module,
    codec: SemanticCodec,
    *,
    join: Literal["channels", "flat"] = "channels",
    sigma_min: float = SIGMA_MIN,
) -> Field:
    """A field for symmetrical flow matching.

    Args:
        net: Over the picture's channels and the codec's together; or a `PairNet`, which keeps its own codec.
        codec: What labels or masks become.
        join: "flat" for networks over flattened samples, such as an MLP.
        sigma_min: See `pair_path`.

    Example:
        >>> from rheos import nets, train
        >>> codec = train.OneHotCode(10)
        >>> field = pair_field(nets.MLP(64 + codec.channels), codec, join="flat")
        >>> sorted(field({"image": torch.zeros(2, 1, 8, 8), "semantics": torch.zeros(2, 10)}, 0.5))
        ['image', 'semantics']
    """
    pair = net if isinstance(net, PairNet) else PairNet(net, codec, join=join)
    return Field(pair, pair_path(sigma_min), gaussian=False)


def pair_net(field: Field) -> PairNet:
    """The pair network of a field.

    Raises:
        OptionError: If the field has another kind of network.
    """
    if not isinstance(field.net, PairNet):
        raise OptionError(
            f"This needs a field of a PairNet, such as symmflow.pair_field(net, codec); got {type(field.net).__name__}."
        )
    return field.net
