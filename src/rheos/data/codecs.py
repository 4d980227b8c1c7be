r"""A frozen autoencoder between pictures and latents.

$z = (\tilde z - \mathrm{shift})\,\mathrm{scale}$ with $\tilde z \sim q(\cdot \mid x)$ of the encoder; back by
$G(z / \mathrm{scale} + \mathrm{shift})$. A flow wants latents of about unit variance, so the scale of an autoencoder
that brings none is one over the standard deviation of its latents. Meanings agree with diffusers' configurations:
`scaling_factor` and `shift_factor`, or `latents_mean` and `latents_std`, one a channel.

Reference: Latent Diffusion, Rombach et al. (2022), appendix G; Dao et al. (2023), sec. 4.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.core.draws import Draws
from rheos.core.errors import DataError, OptionError, ShapeError
from rheos.data.dataset import Data
from rheos.data.recipe import Range
from rheos.nets.autoencoder import Posterior

__all__ = ["Functions", "LatentCodec", "Numbers", "Spread"]

Numbers = float | Sequence[float] | None
"""One number, or one a channel; None: what the autoencoder says."""

SCALE_ROWS = 10_000
"""Rows from which a scale is measured."""


@final
class Functions(nn.Module):
    """Two functions as an autoencoder.

    Args:
        encode: Pictures to latents (a tensor), or to a `Posterior`.
        decode: Latents to pictures.
        name: Says what they are: a cache of their latents is known by it, since a function has no fingerprint.
        factor: By how much height and width shrink, where that is so.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor | Posterior],
        decode: Callable[[Tensor], Tensor],
        *,
        name: str,
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.encode, self.decode, self.factor = encode, decode, factor
        self.config = {"name": name, "factor": factor}
        self.eval()


class Spread:
    """Mean and variance of latents a channel, gathered in pieces; the posterior's variance is part of theirs."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: Tensor | None = None

    def add(self, mean: Tensor, std: Tensor | None) -> None:
        """Rows of unscaled moments (B, C, ...)."""
        m = mean.detach().double().movedim(1, 0).flatten(1)
        square = m.square().sum(1)
        if std is not None:
            square = square + std.detach().double().movedim(1, 0).flatten(1).square().sum(1)
        both = torch.stack((m.sum(1), square)).cpu()
        self._sums = both if self._sums is None else self._sums + both
        self.count += m.shape[1]

    @property
    def mean(self) -> Tensor:
        """(C,) float64."""
        assert self._sums is not None
        return self._sums[0] / self.count

    @property
    def variance(self) -> Tensor:
        """(C,) float64, around each channel's mean."""
        assert self._sums is not None
        return (self._sums[1] / self.count - self.mean.square()).clamp(min=0.0)

    @property
    def std(self) -> float:
        """Of all latents together, around their one mean."""
        return float((self.variance.mean() + self.mean.var(correction=0)).sqrt())


@final
class LatentCodec:
    """Latents of pictures, and pictures of latents, by a frozen autoencoder.

    Args:
        model: An `Autoencoder`, one of diffusers (AutoencoderKL, AutoencoderTiny, AutoencoderDC), `Functions`, or any
            module whose `encode` gives latents, a `Posterior` or diffusers' output, and whose `decode` gives pictures.
            In evaluation mode and without gradients. One in half precision is copied to float32: such autoencoders
            overflow.
        scale: Of the latents; what the model's configuration says, or not known yet, unless given.
        shift: Of the latents; what the model's configuration says, or 0, unless given.
        delivers: Range of the pictures that the model was made for.
        chunk: Pictures in one call of the model.

    Raises:
        OptionError: If the model is in training mode, has weights that learn, or lacks `encode` or `decode`, or a
            scale is not positive and finite.

    Example:
        >>> codec = LatentCodec(Functions(lambda x: 2 * x, lambda z: z / 2, name="twice"), scale=0.5)
        >>> x = torch.ones(1, 1, 2, 2)
        >>> torch.equal(codec.encode(x), x), torch.equal(codec.decode(codec.encode(x)), x)
        (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        scale: Numbers = None,
        shift: Numbers = None,
        *,
        delivers: Range = (-1.0, 1.0),
        chunk: int = 64,
    ) -> None:
        _check_model(model)
        if chunk < 1:
            raise OptionError(f"chunk must be at least 1, got {chunk}.")
        half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
        self.model = copy.deepcopy(model).float() if half else model
        own_scale, own_shift = _own_numbers(model)
        self.scale = _numbers("scale", own_scale if scale is None else scale)
        self.shift = _numbers("shift", own_shift if shift is None else shift) or 0.0
        if any(v <= 0 for v in _listed(self.scale)):
            raise OptionError(f"scale must be positive, got {self.scale}.")
        self.delivers, self.chunk = delivers, chunk
        self.source: str | None = None

    def __repr__(self) -> str:
        scale = "not fitted" if self.scale is None else self.scale
        return f"LatentCodec({type(self.model).__name__}, scale={scale}, shift={self.shift})"

    @property
    def factor(self) -> int | None:
        """By how much height and width shrink; None where the model does not say."""
        own = getattr(self.model, "factor", None) or getattr(self.model, "spatial_compression_ratio", None)
        blocks = _setting(self.model, "block_out_channels") or _setting(self.model, "encoder_block_out_channels")
        return int(own) if own else 2 ** (len(blocks) - 1) if blocks else None

    @cached_property
    def hash(self) -> str:
        """Of the autoencoder: class, configuration and every weight; latents of another are refused by it."""
        h = blake2b(digest_size=16)
        h.update(json.dumps([_address(self.model), _settings(self.model)], sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            h.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            h.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return h.hexdigest()

    @property
    def fingerprint(self) -> str:
        """The autoencoder's hash with scale and shift."""
        return f"{self.hash} {self.scale} {self.shift}"

    def moments(self, x: Tensor) -> Posterior:
        """Mean and standard deviation of the latents of pictures, neither shifted nor scaled.

        Raises:
            ShapeError: If the factor does not divide height and width, or the model returns another number of rows.
            OptionError: If the model was put into training mode, or returns something that is no latent.
        """
        if self.model.training:
            raise OptionError("The autoencoder is in training mode. Freeze it: model.eval().requires_grad_(False).")
        factor = self.factor
        if factor and x.ndim == 4 and (x.shape[2] % factor or x.shape[3] % factor):
            raise ShapeError(
                f"Height and width must be divisible by the autoencoder's factor {factor}, got {x.shape[2]} x "
                f"{x.shape[3]}. Load the pictures with another size.",
                factor=factor,
            )
        parts = [_posterior(self.model, part) for part in torch.split(self._entering(x), self.chunk)]
        mean = torch.cat([p.mean for p in parts]).to(x.device)
        stds = [p.std for p in parts if p.std is not None]
        if len(mean) != len(x):
            raise ShapeError(f"{type(self.model).__name__}.encode gave {len(mean)} rows for {len(x)} pictures.")
        return Posterior(mean, torch.cat(stds).to(x.device) if stds else None)

    def normalised(self, moments: Posterior, noise: Tensor | None = None) -> Tensor:
        """Latents of moments: their mean, or a sample with the given noise; shifted and scaled."""
        z = moments.mean
        if noise is not None and moments.std is not None:
            z = torch.addcmul(z, moments.std, noise)
        return (z - _along(self.shift, z)) * _along(1.0 if self.scale is None else self.scale, z)

    def encode(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Latents of pictures.

        Args:
            x: Pictures in the range `delivers`, rows first.
            draws: One stream a row, for a sample of the posterior; None takes its mean.
        """
        moments = self.moments(x)
        noise = None if draws is None else cast(Tensor, draws.normal(moments.mean, "posterior"))
        return self.normalised(moments, noise).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Pictures of latents, differentiable in them; about in the range `delivers`, on the device of z.

        Args:
            z: Latents, rows first.

        Raises:
            OptionError: If the model was put into training mode, or returns no tensor.
        """
        if self.model.training:
            raise OptionError("The autoencoder is in training mode. Freeze it: model.eval().requires_grad_(False).")
        raw = z / _along(1.0 if self.scale is None else self.scale, z) + _along(self.shift, z)
        parts = [_pictures(self.model, part) for part in torch.split(self._entering(raw), self.chunk)]
        return torch.cat(parts).to(device=z.device, dtype=z.dtype)

    def rescaled(self, scale: Numbers, shift: Numbers = None) -> "LatentCodec":
        """The same autoencoder with other numbers; the shift stays unless given."""
        other = LatentCodec(
            self.model, scale, self.shift if shift is None else shift, delivers=self.delivers, chunk=self.chunk
        )
        other.source = None if (other.scale, other.shift) != (self.scale, self.shift) else self.source
        return other

    def fit_scale(
        self,
        pictures: Data | Tensor | Iterable[Tensor],
        *,
        rows: int = SCALE_ROWS,
        per_channel: bool = False,
        centre: bool = False,
    ) -> "LatentCodec":
        """The same autoencoder with scale = 1 / std of its latents.

        Args:
            pictures: A set, pictures, or batches of them.
            rows: How many pictures are looked at, at most.
            per_channel: Whether every channel has its own scale.
            centre: Whether the mean becomes the shift; else the shift stays.

        Raises:
            DataError: If there are no pictures, or all latents are equal.
        """
        spread, seen = Spread(), 0
        for batch in _batches(pictures, self.chunk, rows):
            part = batch[: rows - seen]
            spread.add(*self.moments(part))
            seen += len(part)
            if seen >= rows:
                break
        return self.fitted(spread, per_channel=per_channel, centre=centre)

    def fitted(self, spread: Spread, *, per_channel: bool = False, centre: bool = False) -> "LatentCodec":
        """`fit_scale` from sums that are there already."""
        if not spread.count:
            raise DataError("A scale needs pictures, and there were none.")
        stds = spread.variance.sqrt().tolist() if per_channel else [spread.std]
        if min(stds) <= 0:
            raise DataError("All latents are equal, so there is no scale. Look at the autoencoder, or at the pictures.")
        scale = [1 / s for s in stds]
        shift = (spread.mean.tolist() if per_channel else float(spread.mean.mean())) if centre else None
        return self.rescaled(scale if per_channel else scale[0], shift)

    def save(self, path: str | Path) -> Path:
        """Write configuration and weights to a new folder, whole or not at all; `read` reads it.

        Raises:
            RunError: If there are files already, or it cannot be written.
        """
        from rheos.data.codec_files import save_codec

        return save_codec(self, Path(path))

    @classmethod
    def read(cls, path: str | Path, custom: Mapping[str, object] | None = None) -> "LatentCodec":
        """A codec from a folder that `save` wrote, or from the run of an `Autoencoder`. No pickle is read.

        Args:
            path: The folder.
            custom: Your own classes by name "module:Class"; see `rheos.core.config.load`.

        Raises:
            DataError: If there is no codec.
            CheckpointError: If a file is truncated, foreign or of a newer format.
            MissingExtraError: For an autoencoder of diffusers that is not installed.
        """
        from rheos.data.codec_files import read_codec

        return read_codec(Path(path), custom or {})

    def _entering(self, x: Tensor) -> Tensor:
        """On the device and in the dtype of the model."""
        first = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        return x if first is None else x.to(device=first.device, dtype=first.dtype)


def _check_model(model: nn.Module) -> None:
    for name in ("encode", "decode"):
        if not callable(getattr(model, name, None)):
            raise OptionError(
                f"An autoencoder has encode(pictures) and decode(latents); {type(model).__name__} lacks {name}."
            )
    learning = sum(p.requires_grad for p in model.parameters())
    if model.training or learning:
        state = "in training mode" if model.training else f"not frozen: {learning} of its weights ask for gradients"
        raise OptionError(
            f"The autoencoder is {state}. Freeze it: model.eval().requires_grad_(False); its latents must not change "
            "while a flow learns them."
        )


def _posterior(model: Any, x: Tensor) -> Posterior:
    """What `encode` returns, whatever the library."""
    found = model.encode(x)
    if isinstance(found, Posterior):
        return found
    found = found[0] if isinstance(found, tuple) else found
    for name in ("latent_dist", "latents", "latent"):
        found = getattr(found, name) if hasattr(found, name) else found
    if isinstance(found, Tensor):
        return Posterior(found)
    mean, std = getattr(found, "mean", None), getattr(found, "std", None)
    if not isinstance(mean, Tensor):
        raise OptionError(f"{type(model).__name__}.encode returned {type(found).__name__}, which is no latent.")
    return Posterior(mean, std if isinstance(std, Tensor) else None)


def _pictures(model: Any, z: Tensor) -> Tensor:
    found = model.decode(z)
    found = found[0] if isinstance(found, tuple) else getattr(found, "sample", found)
    if not isinstance(found, Tensor):
        raise OptionError(f"{type(model).__name__}.decode returned {type(found).__name__}, which is no picture.")
    return found


def _settings(model: object) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {k: v for k, v in config.items() if not k.startswith("_")} if isinstance(config, Mapping) else {}


def _setting(model: object, name: str) -> Any:
    return _settings(model).get(name)


def _own_numbers(model: object) -> tuple[Numbers, Numbers]:
    """Scale and shift as a configuration of diffusers has them."""
    factor, shift = _setting(model, "scaling_factor"), _setting(model, "shift_factor")
    mean, std = _setting(model, "latents_mean"), _setting(model, "latents_std")
    if mean is not None and std is not None:
        return [(factor or 1.0) / s for s in std], list(mean)
    return factor, shift


def _numbers(name: str, value: Numbers) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    found = tuple(float(v) for v in value) if isinstance(value, Sequence) else float(value)
    if any(v - v != 0 for v in _listed(found)):
        raise OptionError(f"{name} must be finite, one number or one a channel, got {value}.")
    return found


def _listed(value: float | tuple[float, ...] | None) -> tuple[float, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _along(value: float | tuple[float, ...], z: Tensor) -> float | Tensor:
    """A number, or one a channel, ready to meet latents (B, C, ...)."""
    if isinstance(value, float):
        return value
    if z.ndim < 2 or z.shape[1] != len(value):
        raise ShapeError(f"The codec has a scale for {len(value)} channels, the latents are {tuple(z.shape)}.")
    return torch.tensor(value, dtype=z.dtype, device=z.device).reshape(-1, *(1,) * (z.ndim - 2))


def _batches(pictures: Data | Tensor | Iterable[Tensor], chunk: int, rows: int) -> Iterable[Tensor]:
    if isinstance(pictures, Data):
        index = torch.arange(min(rows, len(pictures)))
        return (pictures.batch(part).x for part in torch.split(index, chunk))
    return torch.split(pictures, chunk) if isinstance(pictures, Tensor) else pictures


def _address(model: object) -> str:
    return f"{type(model).__module__}:{type(model).__qualname__}"
