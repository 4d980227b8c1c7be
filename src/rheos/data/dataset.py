r"""A set of samples in memory: compact storage, declared range, batches by row numbers.

Pictures are kept as uint8 and become float32 in [-1, 1] only when a batch is gathered: one index_select, one
affine map, no worker processes, no loop over rows. Which rows a training step sees is a pure function of
(seed, step), and which of them are mirrored is a pure function of the step's `Draws`, so that a resumed run
sees the same batches bit by bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, DataError, OptionError, ShapeError, check_choice
from rheos.data import ranges, rows
from rheos.data.about import About, Coded
from rheos.data.palette import count_classes
from rheos.data.recipe import EMBEDDING, Range, Recipe, check_fraction
from rheos.data.resizing import recolour, resize

__all__ = ["Batch", "Column", "Data"]

Column = Tensor | list[str]


class Batch(NamedTuple):
    """Samples x (float32, rows first) and the conditions of the same rows."""

    x: Tensor
    cond: dict[str, Tensor]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Samples, their conditions, and what is known of them. `load` makes one.

    Args:
        x: uint8 or float32 (N, ...): pictures are (N, C, H, W), vectors (N, D).
        columns: By name, tensors of N rows or lists of N strings; "label" is int64 in 0..classes - 1; "mask" (N, H, W)
            is resized and mirrored with its pictures.
        about: Name, classes, ranges, notes. uint8 without a declared range is 0..255.
        flip: Mirror rows of a batch left to right with probability 1/2, where draws are given.
        conditions: Columns that batches carry; None means "label" where there are classes.

    Raises:
        DataError: If there are no rows, x has another type, or a column has another number of rows.
        ConditionError: If labels are not int64 or out of range, or a condition is not a tensor column.

    Example:
        >>> data = Data(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), {"label": torch.tensor([0, 1, 1, 0])},
        ...             About(class_names=("zero", "one")))
        >>> data.batch(torch.tensor([1, 3]))
        Batch(x=tensor([[[[-1., -1.],
                  [-1., -1.]]],
        <BLANKLINE>
        <BLANKLINE>
                [[[-1., -1.],
                  [-1., -1.]]]]), cond={'label': tensor([1, 0])})
    """

    x: Tensor
    columns: Mapping[str, Column] = field(default_factory=dict)
    about: About = field(default_factory=About)
    flip: bool = False
    conditions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.x.dtype not in (torch.uint8, torch.float32) or self.x.ndim < 2 or self.x.numel() == 0:
            raise DataError(
                f"x must be uint8 or float32 of shape (N, ...) with N ≥ 1, got {_kind(self.x)} {tuple(self.x.shape)}. "
                "rheos.data.load converts arrays."
            )
        if self.x.dtype == torch.uint8 and self.about.range is None:
            byte = replace(self.about, range=(0.0, 255.0), delivers=self.about.delivers or (-1.0, 1.0))
            object.__setattr__(self, "about", byte)
        for name, column in self.columns.items():
            if len(column) != len(self):
                raise DataError(f"The column {name!r} has {len(column)} rows, but there are {len(self)} samples.")
        if "label" in self.columns:
            _check_labels(self.columns["label"], self.classes)
        for name in self.conditions or ():
            if not self.columns:
                raise ConditionError(
                    f"The set {self.name!r} has no columns, so it cannot carry the condition {name!r}."
                )
            check_choice("condition", name, self.columns)
            if not isinstance(self.columns[name], Tensor):
                raise ConditionError(
                    f"The column {name!r} holds text, which a network cannot read. "
                    "Embed it, and put the embeddings into a tensor column."
                )
        if self.flip:
            self._check_flip()

    def _check_flip(self) -> None:
        coded = self.about.coded
        if coded is not None and not coded.mirrored:
            raise OptionError("flip needs mirrored entries among the latents: encode the pictures with flip=True.")
        if coded is None and self.x.ndim != 4:
            raise OptionError(f"flip mirrors pictures (N, C, H, W), but these samples have shape {self.shape}.")
        for name in self.conditions or ():
            column = self.columns[name]
            if name != "mask" and isinstance(column, Tensor) and column.ndim > 2:
                raise OptionError(
                    f"flip would mirror the samples but not the condition {name!r} of shape {tuple(column.shape[1:])}. "
                    "Leave flip out, or store mirrored rows beside the others."
                )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        classes = f", {self.classes} classes" if self.classes else ""
        kind = _kind(self.x) if self.about.coded is None else "latents"
        return f"Data({self.name!r}: {len(self)} × {self.shape} {kind}{classes})"

    @property
    def name(self) -> str:
        """For people."""
        return self.about.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        stored = tuple(self.x.shape[1:])
        return stored if self.about.coded is None else self.about.coded.shape(stored)

    @property
    def layout(self) -> str:
        """The axes of one sample: "CHW" for pictures, "D" for vectors, else "array"."""
        return {3: "CHW", 1: "D"}.get(len(self.shape), "array")

    @property
    def classes(self) -> int:
        """How many classes; 0 for an unlabelled set."""
        return len(self.about.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        return self.about.class_names

    @cached_property
    def mask_classes(self) -> int:
        """How many classes masks have, 255 (for none) aside: those of the whole set that this is a part of."""
        masks = self.columns.get("mask")
        return max(self.about.mask_classes, count_classes(masks)) if isinstance(masks, Tensor) else 0

    @property
    def range(self) -> Range | None:
        """(low, high) of the stored numbers."""
        return self.about.range

    @property
    def delivers(self) -> Range | None:
        """(low, high) of the numbers in batches: the range in which a field trained on this set lives."""
        return self.about.delivers

    @property
    def value_range(self) -> Range | None:
        """The same as `delivers`."""
        return self.about.delivers

    @property
    def coded(self) -> Coded | None:
        """What makes samples of the stored rows, such as `Latents`; None where they are the samples."""
        return self.about.coded

    @property
    def visible(self) -> bool:
        """Whether samples can be shown as pictures; see `to_pictures`."""
        coded = self.about.coded
        if coded is not None:
            return coded.delivers is not None
        return self.x.ndim == 4 and self.delivers is not None and self.shape[0] in (1, 3)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader decided on the user's behalf."""
        return self.about.notes

    @property
    def spec(self) -> dict[str, Any]:
        """Plain values for a run's config.json; `load(**data.spec)` reads the set again.

        A set made in memory has the source None: it cannot be read again, and `load` says so.
        """
        return replace(self.about.recipe, flip=self.flip or None, conditions=self.conditions).spec()

    @cached_property
    def fingerprint(self) -> str:
        """blake2b of samples, columns, classes and ranges: changes when the data change."""
        h = blake2b(digest_size=16)
        h.update(repr((self.shape, self.class_names, self.range, self.delivers)).encode())
        named = self.about.recipe.embed
        made = (EMBEDDING, f"{EMBEDDING}_mask") if named else ()  # as with latents; the captions are in
        h.update((named or "").encode())
        rows_: list[tuple[str, Column]] = [("", self.x)]
        if self.about.coded is not None:  # latents differ in their last bits between machines
            h.update(self.about.coded.fingerprint.encode())
            rows_ = []
        others = sorted((item for item in self.columns.items() if item[0] not in made), key=lambda item: item[0])
        for name, column in [*rows_, *others]:
            h.update(name.encode() + b"\0")
            if isinstance(column, Tensor):
                h.update(f"{column.dtype}{tuple(column.shape)}".encode())
                h.update(column.cpu().contiguous().numpy().data.cast("B"))
            else:
                h.update("\0".join(column).encode())
        return h.hexdigest()

    @cached_property
    def _carried(self) -> dict[str, Tensor]:
        names = self.conditions if self.conditions is not None else ("label",) * (self.classes > 0)
        return {name: self.columns[name] for name in names}  # type: ignore[misc]

    def batch(self, index: Int64[Tensor, " b"], draws: Draws | None = None) -> Batch:
        """Gather rows as float32 in the range `delivers`.

        Args:
            index: Row numbers.
            draws: One stream a row of the batch, for flips; None never flips.

        Example:
            >>> data = Data(torch.arange(6.0).reshape(3, 2))
            >>> data.batch(torch.tensor([2, 0])).x
            tensor([[4., 5.],
                    [0., 1.]])
        """
        index = index.to(self.x.device)
        x = self.x.index_select(0, index)
        cond = {name: column.index_select(0, index) for name, column in self._carried.items()}
        flips = _flips(x, draws) if self.flip and draws is not None else None
        if flips is not None and "mask" in cond:  # a mask turns with its picture
            cond["mask"] = _flip(cond["mask"], flips)
        if self.about.coded is not None:
            x = self.about.coded.samples(x, flips, draws)
        elif flips is not None:
            x = _flip(x, flips)
        return Batch(ranges.deliver(x, self.range, self.delivers), cond)

    def order(self, seed: int, epoch: int) -> Int64[Tensor, " n"]:
        """The permutation of the rows in one epoch; see `rheos.data.rows.epoch_order`."""
        return rows.epoch_order(len(self), seed, epoch)

    def indices(self, seed: int, step: int, batch: int) -> Int64[Tensor, " batch"]:
        """The rows of one training step; see `rheos.data.rows.step_rows`."""
        return rows.step_rows(len(self), seed, step, batch)

    def subset(self, index: Int64[Tensor, " m"] | Bool[Tensor, " n"]) -> "Data":
        """The rows at `index` (row numbers or a mask), in that order."""
        return self._rows(index, replace(self.about.recipe, source=None))

    def where(self, label: int | str | Iterable[int | str]) -> "Data":
        """The rows of some classes, given by number or name; the classes keep their numbers.

        Raises:
            ConditionError: If there are no labels, or no such class, or it has no rows.
        """
        if "label" not in self.columns:
            raise ConditionError(f"The set {self.name!r} has no labels to choose by.")
        wanted = [label] if isinstance(label, int | str) else list(label)
        for one in (w for w in wanted if isinstance(w, str)):
            check_choice("label", one, self.class_names)
        numbers = [self.class_names.index(w) if isinstance(w, str) else w for w in wanted]
        labels = self.columns["label"]
        assert isinstance(labels, Tensor)
        index = torch.isin(labels, torch.tensor(numbers, dtype=torch.int64, device=labels.device)).nonzero()[:, 0]
        if len(index) == 0:
            raise ConditionError(f"No row has the label {label!r}; labels run from 0 to {self.classes - 1}.")
        return self.subset(index)

    def split(self, fraction: float = 0.1, seed: int = 0) -> tuple["Data", "Data"]:
        """Two disjoint parts, (train, held out): the same on every machine, each class in proportion.

        Args:
            fraction: Share of the held-out part, in (0, 1); both parts have at least one row.
            seed: Another seed holds other rows out.

        Example:
            >>> train, held_out = Data(torch.zeros(20, 2)).split(0.25)
            >>> len(train), len(held_out)
            (15, 5)
        """
        check_fraction(fraction)
        if len(self) < 2:
            raise DataError(
                "A set of one row cannot be split: nothing would be left to learn. Give more rows, or hold none out "
                "(split=None; --set data.split=null on the command line)."
            )
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        held = torch.zeros(len(self), dtype=torch.bool)
        held[rows.choose(len(self), count, self._labels(), seed, "split")] = True
        recipe = self.about.recipe
        if recipe.split is not None:
            recipe = replace(recipe, source=None)  # a part of a part is not a value of `load`
        standard = (fraction, seed) == (0.1, 0)
        parts = [replace(recipe, split=p if standard else (p, fraction, seed)) for p in ("train", "held_out")]
        return self._rows((~held).nonzero()[:, 0], parts[0]), self._rows(held.nonzero()[:, 0], parts[1])

    def limit(self, count: int) -> "Data":
        """At most `count` rows, each class in proportion, chosen at random but always the same."""
        if count >= len(self):
            return self
        return self.subset(rows.choose(len(self), count, self._labels(), 0, "limit"))

    def resize(self, size: int) -> "Data":
        """Pictures of size × size; see `rheos.data.resizing.resize` for filter, crop and rounding."""
        if self.x.ndim != 4:
            raise ShapeError(f"Only pictures (N, C, H, W) can be resized; these samples have shape {self.shape}.")
        if self.shape[1:] == (size, size):
            return self
        data, masks = self._with(resize(self.x, size, self.range)), self.columns.get("mask")
        if not isinstance(masks, Tensor):
            return data
        from rheos.data.masks import resize_masks

        about = replace(data.about, mask_classes=self.mask_classes)
        return replace(data, columns={**self.columns, "mask": resize_masks(masks, (size, size))}, about=about)

    def recolour(self, colour: str) -> "Data":
        """Pictures in "rgb" or "grey"; see `rheos.data.resizing.recolour`."""
        check_choice("colour", colour, ("rgb", "grey"))
        if self.x.ndim != 4:
            raise ShapeError(f"Only pictures (N, C, H, W) have a colour; these samples have shape {self.shape}.")
        x = recolour(self.x, colour)
        return self if x is self.x else self._with(x)

    def to(self, device: torch.device | str) -> "Data":
        """The same set on another device; batches then stay there. One copy for the whole training."""
        moved = {k: c.to(device) if isinstance(c, Tensor) else c for k, c in self.columns.items()}
        return replace(self, x=self.x.to(device), columns=moved)

    def to_pictures(self, x: Shaped[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        """uint8 pictures from what a field of this set gives: the inverse of delivery, clamped, NaN refused."""
        coded = self.about.coded
        if coded is not None and coded.delivers is not None:
            return ranges.to_pictures(coded.decode(x), coded.delivers)
        if self.delivers is None or self.x.ndim != 4:
            raise DataError(f"The set {self.name!r} holds no pictures of a declared range, so nothing can be shown.")
        return ranges.to_pictures(x, self.delivers)

    def check(self, x: Float32[Tensor, "..."] | Tensor, name: str = "x") -> None:
        """Raise unless x can be meant for a field of this set; see `check_range`."""
        ranges.check_range(x, self.delivers, name)

    def _labels(self) -> Tensor | None:
        labels = self.columns.get("label")
        return labels.cpu() if isinstance(labels, Tensor) else None

    def _with(self, x: Tensor) -> "Data":
        return replace(self, x=x, about=replace(self.about, recipe=replace(self.about.recipe, source=None)))

    def _rows(self, index: Tensor, recipe: Recipe) -> "Data":
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        if len(index) == 0:
            raise DataError(f"No row of the set {self.name!r} is left.")
        numbers = index.tolist() if any(isinstance(c, list) for c in self.columns.values()) else []
        columns: dict[str, Column] = {
            k: c.index_select(0, index.to(c.device)) if isinstance(c, Tensor) else [c[i] for i in numbers]
            for k, c in self.columns.items()
        }
        x = self.x.index_select(0, index.to(self.x.device))
        coded = None if self.about.coded is None else self.about.coded.rows(index)
        if coded is not None and coded.measured:
            recipe = replace(recipe, source=None)
        about = replace(self.about, recipe=recipe, coded=coded, mask_classes=self.mask_classes)
        return replace(self, x=x, columns=columns, about=about)


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _check_labels(labels: Column, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise ConditionError("Labels must be an int64 tensor of shape (N,); rheos.data.load converts other kinds.")
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or high >= classes:
        raise ConditionError(
            f"Labels must lie in 0..{classes - 1} for {classes} classes, got {low}..{high}.", low=low, high=high
        )


def _flips(x: Tensor, draws: Draws) -> Tensor:
    if len(draws) != len(x):
        raise OptionError(f"Flips need one stream a row: {len(draws)} streams for a batch of {len(x)} rows.")
    return draws.to(x.device).words(1, "flip")[:, 0] >= 0  # the words whose uniform lies below 1/2


def _flip(x: Tensor, flips: Tensor) -> Tensor:
    both = torch.cat((x, x.flip(-1)))  # a gather from both is five times faster than torch.where on bytes
    return both.index_select(0, torch.arange(len(x), device=x.device) + len(x) * flips)
