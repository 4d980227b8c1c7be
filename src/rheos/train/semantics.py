r"""Labels and masks as continuous codes that a flow can carry, and back.

A codec has K code words in $\mathbb R^D$, one a class. Encoding adds uniform noise of half-width h to every element
(dequantisation), so that codes have a density; decoding takes the nearest word. Words a and b cannot be mistaken for
each other as long as $h \lVert a - b \rVert_1 < \tfrac12 \lVert a - b \rVert_2^2$, which every codec checks.

Reference: Symmetrical Flow Matching, Caetano et al. (2026), https://arxiv.org/abs/2506.10634
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice

__all__ = ["Form", "LatentCode", "Pool", "SemanticCodec", "WordCodec"]

FORMS = ("vector", "map", "mask")
POOLS = ("mean", "distance", "mode")
Form = Literal["vector", "map", "mask"]
Pool = Literal["mean", "distance", "mode"]


class SemanticCodec(ABC):
    """Labels to codes y, and back."""

    classes: int
    """K."""
    ignore: int | None
    """The label of pixels without one; None where all have one."""

    @abstractmethod
    def shape(self, picture: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one code beside a picture (or a vector) of this shape."""

    @abstractmethod
    def encode(self, labels: Tensor, picture: tuple[int, ...], draws: Draws | None = None) -> Tensor:
        """Codes of labels (B,), or of masks (B, H, W); without draws there is no noise on them."""

    @abstractmethod
    def scores(self, y: Tensor) -> Tensor:
        """(B, K), or (B, K, H, W) for masks: larger is likelier."""

    def decode(self, y: Tensor) -> Tensor:
        """int64 labels (B,), or masks (B, H, W)."""
        return self.scores(y).argmax(1)


@dataclass(frozen=True)
class WordCodec(SemanticCodec):
    """A codec of K fixed code words.

    Args:
        classes: K, at least 2.
        form: How a code lies beside a picture: "vector" (B, D); "map", a constant map (B, D, H, W) of a label;
            "mask", a word a pixel (B, D, H, W).
        pool: How a map is read: "mean" of its pixels, then the nearest word; smallest mean "distance" to a word;
            or the "mode" of the pixels' nearest words.
        size: (height, width) of maps or masks; the picture's own unless given.
        ignore: Label of mask pixels that have none; their code is zero, and no loss is taken there.
        grain: What has noise of its own: each "pixel", or each channel of a whole "map", which then stays constant.

    Raises:
        OptionError: For fewer than two classes, or noise under which neighbouring words overlap.
        UnknownOptionError: For an unknown form or pool.
    """

    classes: int
    form: Form = "vector"
    pool: Pool = "mean"
    size: tuple[int, int] | None = None
    ignore: int | None = None
    grain: Literal["pixel", "map"] = "pixel"

    def __post_init__(self) -> None:
        check_choice("form", self.form, FORMS)
        check_choice("grain", self.grain, ("pixel", "map"))
        if self.grain == "map" and self.form != "map":
            raise OptionError(f"Noise for a whole map needs the form 'map', got {self.form!r}.")
        check_choice("pool", self.pool, POOLS)
        if self.classes < 2:
            raise OptionError(f"classes must be at least 2, got {self.classes}.")
        if self.size is not None and self.form == "vector":
            raise OptionError(f"size is of maps and masks, the form is {self.form!r}. Leave it out.")
        if self.ignore is not None and 0 <= self.ignore < self.classes:
            raise OptionError(f"ignore must lie outside the classes 0 .. {self.classes - 1}, got {self.ignore}.")

    @property
    @abstractmethod
    def words(self) -> Tensor:
        """float64 (K, D): the code words."""

    @property
    @abstractmethod
    def noise(self) -> float:
        """Half-width h of the uniform noise on each element."""

    @property
    def channels(self) -> int:
        """D."""
        return self.words.shape[1]

    @property
    def margin(self) -> float:
        """The smallest room between noise and half-gap, over all pairs of words; negative where they overlap."""
        w = self.words
        room = 0.5 * torch.cdist(w, w).square() - self.noise * torch.cdist(w, w, p=1)
        return float(room[~torch.eye(self.classes, dtype=torch.bool)].min())

    def _check_margin(self, remedy: str) -> None:
        if not self.noise >= 0 or self.margin <= 1e-9:  # short of rounding
            raise OptionError(
                f"With noise of half-width {self.noise:.3g} neighbouring codes of {type(self).__name__} overlap, so "
                f"labels could not be read back. {remedy}"
            )

    def shape(self, picture: tuple[int, ...]) -> tuple[int, ...]:
        """See `SemanticCodec.shape`.

        Raises:
            ShapeError: If maps are asked for beside a vector.
        """
        if self.form == "vector":
            return (self.channels,)
        if len(picture) != 3:
            raise ShapeError(f"The form {self.form!r} lies beside pictures (C, H, W), got {picture}. Use 'vector'.")
        return (self.channels, *(self.size or picture[1:]))

    def encode(self, labels: Tensor, picture: tuple[int, ...], draws: Draws | None = None) -> Tensor:
        """Code words with dequantisation noise, float32 (float64 for a float64 default).

        Args:
            labels: (B,), or (B, H, W) for the form "mask".
            picture: Shape of one picture.
            draws: A stream a row for the noise; None adds none.

        Raises:
            ShapeError: For labels of another rank, or masks of another size than `size` or the pictures.
            ConditionError: For labels that are no whole numbers, or outside 0 .. K - 1 (looked at on a CPU only).
        """
        shape = self.shape(picture)
        index, kept = self._checked(labels, shape)
        y = self.words.to(labels.device)[index]
        if self.form == "mask":
            y = (y * kept[..., None]).movedim(-1, 1)
        elif self.form == "map":
            y = y[..., None, None].expand(-1, *shape)
        if draws is not None and self.noise:
            grain = (shape[0], 1, 1) if self.grain == "map" else shape
            u = draws.to(y.device).uniform("dequantise", shape=grain)
            noise = (2 * u - 1) * self.noise
            y = y + (noise * kept[:, None] if self.form == "mask" else noise)
        return y.to(torch.get_default_dtype()).contiguous()

    def _checked(self, labels: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Row numbers into the words, and which of them are meant."""
        wanted = shape[1:] if self.form == "mask" else ()
        if tuple(labels.shape[1:]) != wanted or labels.ndim == 0:
            kind = "masks" if self.form == "mask" else "labels"
            came, want = tuple(labels.shape), ("B", *wanted)
            raise ShapeError(
                f"{type(self).__name__} of form {self.form!r} encodes {kind} ({', '.join(map(str, want))}), got {came}."
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ConditionError(f"Labels are whole numbers 0 .. {self.classes - 1}, got {labels.dtype}.")
        index = labels.long()
        kept = torch.ones_like(index, dtype=torch.bool)
        if self.ignore is not None:
            kept = index != self.ignore
            index = torch.where(kept, index, 0)
        if index.device.type == "cpu" and index.numel():
            low, high = (int(v) for v in index.aminmax())
            if low < 0 or high >= self.classes:
                bad = low if low < 0 else high
                way = " If that marks pixels without a class, give it as ignore." if self.form == "mask" else ""
                raise ConditionError(f"Labels must lie in 0 .. {self.classes - 1}, got {bad}.{way}", label=bad)
        return index, kept

    def ignored(self, labels: Tensor) -> Tensor | None:
        """(B, H, W): where masks have no class; None where all have one."""
        return labels == self.ignore if self.ignore is not None and self.form == "mask" else None

    def distances(self, y: Tensor) -> Tensor:
        """(B, K, ...): Euclidean distance of y (B, D, ...) to each word.

        Raises:
            ShapeError: If y has not D channels, or not the rank of the form.
        """
        rank = 2 if self.form == "vector" else 4
        if y.ndim not in (2, rank) or y.shape[1] != self.channels:
            raise ShapeError(
                f"{type(self).__name__} of form {self.form!r} reads codes with {self.channels} channels and {rank} "
                f"axes, got shape {tuple(y.shape)}."
            )
        w = self.words.to(y.device, y.dtype)
        dot = torch.einsum("bd...,kd->bk...", y, w)
        ends = w.square().sum(1).reshape(1, -1, *(1,) * (y.ndim - 2))
        return (y.square().sum(1, keepdim=True) - 2 * dot + ends).clamp(min=0).sqrt()

    def scores(self, y: Tensor) -> Tensor:
        """Negative distances to the words; shares of pixels for the pool "mode"."""
        if self.form != "map" or y.ndim == 2:
            return -self.distances(y)
        if self.pool == "mean":
            return -self.distances(y.mean((2, 3)))
        d = self.distances(y)
        if self.pool == "distance":
            return -d.mean((2, 3))
        nearest = d.argmin(1)
        return torch.stack([(nearest == k).double().mean((1, 2)) for k in range(self.classes)], 1)


@final
@dataclass(frozen=True, eq=False)
class LatentCode(SemanticCodec):
    """Colour maps through an autoencoder: codes are latents, and decoding runs the autoencoder first.

    Args:
        inner: A codec of maps or masks that the autoencoder takes, such as `PaletteCode`.
        autoencoder: Anything with `encode(pictures)` and `decode(latents)`; diffusers' own kinds are understood. Masks
            take the mode of its posterior.
        scale: Latents are multiplied by it; Stable Diffusion has 0.18215.
        shift: Subtracted from latents before scaling.
    """

    inner: WordCodec
    autoencoder: Any
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.inner.form == "vector":
            raise OptionError("An autoencoder takes pictures: give the inner codec the form 'map' or 'mask'.")
        object.__setattr__(self, "classes", self.inner.classes)
        object.__setattr__(self, "ignore", self.inner.ignore)

    def shape(self, picture: tuple[int, ...]) -> tuple[int, ...]:
        """The latent's shape, found by encoding zeros once."""
        from rheos.train.latents import encoded

        with torch.no_grad():
            first = torch.zeros(1, *self.inner.shape(picture), device=_device(self.autoencoder))
            return tuple(encoded(self.autoencoder, first, self.scale, self.shift).shape[1:])

    @torch.no_grad()
    def encode(self, labels: Tensor, picture: tuple[int, ...], draws: Draws | None = None) -> Tensor:
        """The mode of the posterior of the colour map."""
        from rheos.train.latents import encoded

        return encoded(self.autoencoder, self.inner.encode(labels, picture, draws), self.scale, self.shift)

    @torch.no_grad()
    def scores(self, y: Tensor) -> Tensor:
        """The inner codec's, of the decoded latents."""
        from rheos.train.latents import decoded

        return self.inner.scores(decoded(self.autoencoder, y, self.scale, self.shift))


def _device(module: object) -> torch.device:
    parameters = getattr(getattr(module, "model", module), "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if isinstance(first, Tensor) else torch.device("cpu")
