"""Pictures as latents: encoded once, kept in a file that is mapped into memory, sampled anew in every batch.

What is stored is the mean and the standard deviation of the posterior, neither shifted nor scaled, so that a batch
draws a fresh sample and another scale needs no new pass. Mirrored pictures have entries of their own: the latent of a
mirrored picture is not the mirrored latent.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, cast, final

import numpy as np
import torch
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import DataError, OptionError
from rheos.data.about import Coded
from rheos.data.codecs import SCALE_ROWS, LatentCodec, Spread
from rheos.data.dataset import Data
from rheos.nets.autoencoder import Posterior

__all__ = ["Latents", "encoded"]

FORMAT = "rheos latents 1"
FAR = 3.0
"""A standard deviation of latents that is further from 1 than this factor is warned of."""


@final
@dataclass(frozen=True, eq=False)
class Latents(Coded):
    """Stored moments (N, sides, parts, C, h, w) and how samples come of them.

    Args:
        codec: Gives scale and shift, and decodes.
        digests: int64 (N,): a hash of each picture, by which a cache is known.
        mirrored: Whether there is a second side, of the mirrored pictures.
        measured: Whether the scale was fitted on these rows.
    """

    codec: LatentCodec
    digests: Tensor
    mirrored: bool = False
    measured: bool = False

    @property
    def delivers(self) -> tuple[float | int, float | int]:  # type: ignore[override]
        """Range of the decoded pictures."""
        return self.codec.delivers

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Without sides and parts."""
        return stored[2:]

    def samples(self, stored: Tensor, flips: Tensor | None, draws: Draws | None) -> Tensor:
        """A sample of each posterior by keyed noise; the mean without draws, or where the encoder has no spread."""
        side = (
            stored[:, 0]
            if flips is None
            else stored[torch.arange(len(stored), device=stored.device), flips.to(stored.device).long()]
        )
        if side.shape[1] == 1 or draws is None:
            return self.codec.normalised(Posterior(side[:, 0]))
        noise = cast(Tensor, draws.normal(side[:, 0], "posterior"))
        return self.codec.normalised(Posterior(side[:, 0], side[:, 1]), noise)

    def decode(self, x: Tensor) -> Tensor:
        """Pictures of latents, without gradients."""
        with torch.no_grad():
            return self.codec.decode(x)

    def rows(self, index: Tensor) -> "Latents":
        """The latents at `index`."""
        return replace(self, digests=self.digests[index.to(self.digests.device)])

    @property
    def fingerprint(self) -> str:
        """Of pictures and codec: not of the latents, whose last bits differ between machines."""
        return f"{_known_by(self.digests)} {self.codec.fingerprint} {self.mirrored}"


def encoded(data: Data, codec: LatentCodec, *, cache: str | os.PathLike[str] | Literal["auto"] | None = None) -> Data:
    """The set with its pictures encoded: batches carry latents, conditions stay.

    Args:
        data: Pictures. With `flip` on, mirrored pictures are encoded too, and batches choose a side.
        codec: One without a scale gets it from the first 10,000 rows.
        cache: A .safetensors file to keep the moments in, and to take them from; "auto" keeps one in the codec's own
            folder; None keeps them in memory.

    Returns:
        The set, of latents.

    Raises:
        DataError: If the set holds latents already or no pictures, or in another range than the codec's; if the file
            holds latents of another autoencoder, or of other pictures, or is damaged.
        ShapeError: If the autoencoder's factor does not divide the pictures' sides.
        UserWarning: If the latents' standard deviation is further from 1 than a factor of 3.

    Example:
        >>> from rheos.data import Functions, load
        >>> data = load("digits", limit=10)
        >>> latents = encoded(data, LatentCodec(Functions(lambda x: 4 * x, lambda z: z / 4, name="four"), scale=0.25))
        >>> latents, torch.equal(latents.batch(torch.tensor([3])).x, data.batch(torch.tensor([3])).x)
        (Data('digits': 10 × (1, 8, 8) latents, 10 classes), True)
    """
    _check(data, codec)
    digests = _digests(data.x)
    file = _file(codec, digests, data.flip) if cache == "auto" else None if cache is None else Path(cache)
    about = {"autoencoder": codec.hash, "pictures": _known_by(digests), "mirrored": str(data.flip)}
    x, notes = _moments(data, codec, file, about)
    source = codec.source  # from there the same scale is fitted again
    measured = codec.scale is None
    if measured:
        spread = _spread(x)
        codec = codec.fitted(spread)
        notes = (*notes, f"The latents' scale is {codec.scale:.5g}, one over the standard deviation {spread.std:.4g}.")
    else:
        _warn_if_far(codec, x)
    latents = Latents(codec, digests, data.flip, measured)
    recipe = replace(data.about.recipe, codec=source, source=data.about.recipe.source if source else None)
    own = replace(data.about, range=None, delivers=None, coded=latents, notes=(*data.notes, *notes), recipe=recipe)
    return replace(data, x=x, about=own)


def _check(data: Data, codec: LatentCodec) -> None:
    if data.coded is not None:
        raise DataError(f"The set {data.name!r} holds latents already; encode the pictures that they came from.")
    if data.x.ndim != 4 or data.delivers is None:
        raise DataError(f"Only pictures (N, C, H, W) of a declared range have latents; {data!r} has none.")
    if tuple(data.delivers) != tuple(codec.delivers):
        raise DataError(
            f"The autoencoder was made for pictures in {codec.delivers}, the set delivers {data.delivers}. "
            "Load it with the codec's range, or make the codec with delivers=data.delivers."
        )


def _moments(
    data: Data, codec: LatentCodec, file: Path | None, about: dict[str, str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Moments from the file, or computed and kept there where it can be written."""
    if file is None:
        return _in_memory(data, codec), ()
    if file.exists():
        return _read(file, about, len(data)), ()
    try:
        _write(file, data, codec, about)
    except OSError as error:
        return _in_memory(data, codec), (f"Latents are kept in memory: {file} cannot be written ({error.strerror}).",)
    return _read(file, about, len(data)), ()


def _pieces(data: Data, codec: LatentCodec) -> Iterator[Tensor]:
    """(B, sides, parts, C, h, w) of consecutive rows."""
    for index in torch.split(torch.arange(len(data)), codec.chunk):
        x = replace(data, conditions=()).batch(index).x
        with torch.no_grad():
            sides = [codec.moments(x), codec.moments(x.flip(-1))] if data.flip else [codec.moments(x)]
        yield torch.stack([torch.stack([p for p in side if p is not None], 1) for side in sides], 1).float().cpu()


def _in_memory(data: Data, codec: LatentCodec) -> Tensor:
    x = torch.empty(0)
    for start, piece in _placed(data, codec):
        if not start:
            x = torch.empty(len(data), *piece.shape[1:])
        x[start : start + len(piece)] = piece
    return x


def _placed(data: Data, codec: LatentCodec) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for piece in _pieces(data, codec):
        yield start, piece
        start += len(piece)


def _write(file: Path, data: Data, codec: LatentCodec, about: dict[str, str]) -> None:
    """One safetensors file, filled row by row so that a set larger than memory passes, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    table: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
    try:
        for start, piece in _placed(data, codec):
            if table is None:
                shape = (len(data), *piece.shape[1:])
                table = np.memmap(temporary, np.float32, "r+", _begin(temporary, shape, about), shape)
            table[start : start + len(piece)] = piece.numpy()
        assert table is not None
        table.flush()
        del table
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _begin(file: Path, shape: tuple[int, ...], about: dict[str, str]) -> int:
    """Write the head of a safetensors file of its full size; where the numbers begin."""
    size = 4 * int(np.prod(shape))
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}
    head = json.dumps({"__metadata__": {"format": FORMAT, **about}, "moments": entry}).encode()
    head += b" " * (-len(head) % 8)
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + size)
    return 8 + len(head)


def _read(file: Path, about: dict[str, str], count: int) -> Tensor:
    """Moments, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            found = opened.metadata() or {}
            if found.get("format") != FORMAT:
                raise DataError(f"{file} holds no latents of rheos.", path=file)
            _compare(file, found, about)
            x = cast(Tensor, opened.get_tensor("moments"))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is truncated or no safetensors file ({error}). Delete it.", path=file) from None
    if len(x) != count:
        raise DataError(f"{file} holds latents of {len(x)} pictures, the set has {count}.")
    return x


def _compare(file: Path, found: dict[str, str], about: dict[str, str]) -> None:
    words = {
        "autoencoder": "another autoencoder",
        "pictures": "other pictures",
        "mirrored": "another choice of flip",
    }
    for key, what in words.items():
        if found.get(key) != about[key]:
            raise DataError(
                f"{file} holds latents of {what} (there: {found.get(key)}, here: {about[key]}). "
                "Name another file, or delete this one.",
                path=file,
            )


def _file(codec: LatentCodec, digests: Tensor, mirrored: bool) -> Path:
    if codec.source is None:
        raise OptionError('cache="auto" keeps latents in the codec\'s folder, and this codec has none: save it first.')
    name = f"{codec.hash[:8]}-{_known_by(digests)[:12]}{'-mirrored' if mirrored else ''}.safetensors"
    return Path(codec.source) / "latents" / name


def _digests(x: Tensor) -> Tensor:
    """int64 (N,): a hash of the bytes of each row."""
    rows = x.cpu().contiguous().flatten(1).numpy()
    kind = f"{x.dtype}{tuple(x.shape[1:])}".encode()
    words = (blake2b(kind + row.tobytes(), digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(w, "little", signed=True) for w in words], dtype=torch.int64)


def _known_by(digests: Tensor) -> str:
    return blake2b(digests.cpu().numpy().tobytes(), digest_size=16).hexdigest()


def _spread(x: Tensor) -> Spread:
    spread = Spread()
    for part in torch.split(x[:SCALE_ROWS], 1024):
        flat = part.flatten(0, 1)
        spread.add(flat[:, 0], flat[:, 1] if flat.shape[1] == 2 else None)
    return spread


def _warn_if_far(codec: LatentCodec, x: Tensor) -> None:
    """A given scale that makes latents far from unit variance is probably another autoencoder's."""
    import warnings

    spread = _spread(x)
    scale, shift = (torch.tensor(v, dtype=torch.float64) for v in (codec.scale, codec.shift))
    middles = (spread.mean - shift) * scale
    std = float(((scale.square() * spread.variance).mean() + middles.var(correction=0)).sqrt())
    if not 1 / FAR <= std <= FAR:
        warnings.warn(
            f"With scale {codec.scale} the latents' standard deviation is {std:.3g}, and a flow wants about 1: "
            f"codec.fit_scale(data) gives {1 / max(spread.std, 1e-12):.4g}.",
            UserWarning,
            stacklevel=3,
        )
