"""How a set was read: plain values that a run's config.json keeps, so that the data come back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, final

from rheos.core.errors import OptionError, check_choice
from rheos.data.palette import Palette

__all__ = ["EMBEDDING", "Range", "Recipe", "Split", "check_fraction", "read_conditions", "read_range", "read_split"]

Range = tuple[float | int, float | int]
Split = str | tuple[str, float, int]
EMBEDDING = "embedding"
"""The column of embedded captions; that of their tokens' mask has "_mask" behind."""


def check_fraction(fraction: float) -> None:
    """Raise unless 0 < fraction < 1."""
    if not 0.0 < fraction < 1.0:
        raise OptionError(f"fraction must lie between 0 and 1, got {fraction!r}; 0.1 holds one row in ten out.")


def _check_count(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise OptionError(f"{name} must be a whole number of at least 1, got {value!r}.")


@final
@dataclass(frozen=True)
class Recipe:
    """The arguments of `load`, checked.

    Args:
        source: A name of `SOURCES`, a path, "hf:NAME", or None for a set that was made in memory.
        size: Side of the square pictures, in pixels.
        flip: Whether batches mirror pictures at random, left to right.
        limit: At most so many rows; for sets that are generated (toys, photos), exactly so many.
        colour: "rgb", "grey", or None to keep what the files hold.
        range: (low, high) of a user's numbers, or "raw" for numbers without a range.
        split: "train", "held_out", or (part, fraction, seed).
        conditions: Names of the columns that batches carry.
        skip_corrupt: Leave unreadable pictures of a folder out instead of stopping.
        download: Whether "hf:" sources may use the network.
        masks: A folder of masks with the names of a folder's pictures.
        palette: Classes of the masks: their number K, or the value of each, grey numbers or "#rrggbb".
        codec: Folder of the autoencoder whose latents are delivered; None delivers the pictures.
        embed: Name of what makes the column "embedding" of captions; see `rheos.data.embedding.embedder`.

    Raises:
        OptionError: If a value is outside its range.

    Example:
        >>> Recipe("digits", size=16, split=("train", 0.2, 1)).spec()
        {'source': 'digits', 'size': 16, 'split': ['train', 0.2, 1]}
    """

    source: str | None = None
    size: int | None = None
    flip: bool | None = None
    limit: int | None = None
    colour: str | None = None
    range: Range | str | None = None
    split: Split | None = None
    conditions: tuple[str, ...] | None = None
    skip_corrupt: bool = False
    download: bool = False
    masks: str | None = None
    codec: str | None = None
    embed: str | None = None
    palette: Palette | None = None

    def __post_init__(self) -> None:
        _check_count("size", self.size)
        _check_count("limit", self.limit)
        if self.colour is not None:
            check_choice("colour", self.colour, ("rgb", "grey"))

    def spec(self) -> dict[str, Any]:
        """The values that differ from their defaults, ready for JSON; `load(**spec)` reads the set again."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if v is not None and v is not False}
        return {"source": self.source} | kept


def read_conditions(value: Sequence[str] | None) -> tuple[str, ...] | None:
    """Column names from a list, as a user or JSON gives it."""
    if isinstance(value, str):
        raise OptionError(f"conditions must be a list of column names, got {value!r}; write a list.")
    return None if value is None else tuple(value)


def read_range(value: object) -> Range | str | None:
    """A range from two numbers, as a user or JSON gives them; "raw" and None stay."""
    if value is None or value == "raw":
        return value if value is None else "raw"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        low, high = float(value[0]), float(value[1])
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise OptionError(f'range must be (low, high) with low < high, or "raw", got {value!r}.')


def read_split(value: object) -> Split | None:
    """A split from a part's name, or from (part, fraction, seed), as a user or JSON gives it."""
    if value is None:
        return None
    if isinstance(value, str):
        check_choice("split", value, ("train", "held_out"))
        return value
    if not isinstance(value, Sequence) or len(value) != 3 or not isinstance(value[2], int):
        raise OptionError(f'split must be "train", "held_out" or (part, fraction, seed), got {value!r}.')
    check_choice("split", value[0], ("train", "held_out"))
    check_fraction(value[1])
    return str(value[0]), float(value[1]), value[2]
