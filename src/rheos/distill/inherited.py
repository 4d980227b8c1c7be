"""What a student takes over from its teacher beside the flow: what decodes its samples, and which rows are real.

Samples of a flow in latents are latents. Stores of them keep the teacher's codec beside the rows, their data deliver
it, and so the run of a student has it like any other run in latents. Stores also note which data the teacher learned
from, so that a student's samples can be compared with them.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import DataError, OptionError
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.data.about import Coded
from rheos.data.codecs import LatentCodec
from rheos.data.dataset import Data
from rheos.train import Run
from rheos.train.files import CODEC

__all__ = ["Inheritance", "Inheriting", "LatentRows", "field_of", "inheriting", "names_of"]

REAL = "real.json"
"""Says in a store how to read what the teacher learned from."""


def field_of(given: Field | Run) -> Field:
    """The field itself, or that of a run.

    Raises:
        OptionError: For anything else.
    """
    found = given.field if isinstance(given, Run) else given
    if not isinstance(found, Field):
        raise OptionError(f"A Run or a Field is wanted, got {type(given).__name__}.")
    return found


def names_of(teacher: Run | Field) -> tuple[str, ...]:
    """Class names that a run knows."""
    return tuple(teacher.config["data"]["class_names"]) if isinstance(teacher, Run) else ()


@final
@dataclass(frozen=True, eq=False)
class LatentRows(Coded):
    """Rows that are latents as they stand: a teacher's samples.

    Args:
        codec: Decodes them.
        x: The rows, by whose bytes they are known.
    """

    codec: LatentCodec
    x: Tensor

    mirrored = False

    @property
    def delivers(self) -> tuple[float | int, float | int]:  # type: ignore[override]
        """Range of the decoded pictures."""
        return self.codec.delivers

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The same."""
        return stored

    def samples(self, stored: Tensor, flips: Tensor | None, draws: Draws | None) -> Tensor:
        """The same."""
        return stored

    def decode(self, x: Tensor) -> Tensor:
        """Pictures of latents, without gradients."""
        with torch.no_grad():
            return self.codec.decode(x)

    def rows(self, index: Tensor) -> "LatentRows":
        """The rows at `index`."""
        return replace(self, x=self.x.index_select(0, index.to(self.x.device)))

    @cached_property
    def fingerprint(self) -> str:
        """Of rows and codec."""
        rows = blake2b(self.x.cpu().contiguous().numpy().data.cast("B"), digest_size=16).hexdigest()
        return f"{rows} {self.codec.fingerprint}"


@final
@dataclass(frozen=True, eq=False)
class Inheritance:
    """What a student takes over.

    Args:
        codec: Decodes samples; None where they are no latents.
        real: How `rheos.data.load` reads what the teacher learned from; None where that cannot be read again.
    """

    codec: LatentCodec | None = None
    real: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, teacher: Run | Field) -> "Inheritance":
        """A run's codec and data; a field alone has neither."""
        if not isinstance(teacher, Run):
            return cls()
        about = teacher.config["data"]
        spec = about.get("real") or about["spec"]
        return cls(teacher.codec, spec if spec.get("source") is not None else None)

    @classmethod
    def read(cls, folder: Path) -> "Inheritance":
        """What a store keeps.

        Raises:
            DataError: If a file is damaged.
            OptionError: If the codec is a class of your own, which no file can hold.
        """
        codec, real = folder / CODEC, folder / REAL
        try:
            spec = json.loads(real.read_text(encoding="utf-8")) if real.exists() else None
        except (ValueError, OSError) as error:
            raise DataError(f"{real} is damaged: {error}. Delete the folder and generate again.") from error
        return cls(LatentCodec.read(codec) if codec.exists() else None, spec)

    def write(self, folder: Path) -> None:
        """Put it into a store that is there, once."""
        if self.codec is not None and not (folder / CODEC).exists():
            copy.copy(self.codec).save(folder / CODEC)  # a copy, which alone remembers this place
        if self.real is not None and not (folder / REAL).exists():
            write_whole(folder / REAL, json.dumps(self.real, indent=1) + "\n")

    def over(self, other: "Inheritance") -> "Inheritance":
        """This one, and the other's where it has nothing."""
        return Inheritance(self.codec or other.codec, self.real or other.real)

    def told(self, data: Data) -> Data:
        """The data with the codec, and with what their rows stand for; what they know themselves stays."""
        about, real = data.about, self.real
        coded = LatentRows(self.codec, data.x) if about.coded is None and self.codec is not None else about.coded
        if about.recipe.source is not None or about.real is not None:  # real rows, or of another teacher
            real = about.real
        if coded is about.coded and real is about.real:
            return data
        return replace(data, about=replace(about, coded=coded, real=real))


def inheriting(data: Data, teacher: Run | Field) -> Data:
    """Data that a student of a teacher learns from, with the teacher's codec where they are latents without one.

    Args:
        data: Samples like the teacher's.
        teacher: A run, or a field, which bequeaths nothing.
    """
    return Inheritance.of(teacher).told(data)


class Inheriting:
    """A store of a teacher's samples; its folder may hold an inheritance."""

    folder: Path
    _inheritance: Inheritance | None = None

    @property
    def inheritance(self) -> Inheritance:
        """What was handed over, or else is in the folder, read on first use."""
        if self._inheritance is None:
            self._inheritance = Inheritance.read(self.folder)
        return self._inheritance

    @property
    def codec(self) -> LatentCodec | None:
        """Decodes the rows; None where they are no latents, or nothing is known of what decodes them."""
        return self.inheritance.codec

    def inherits(self, teacher: Run | Field, shard: tuple[int, int] = (0, 1)) -> Self:
        """The same store, with what the teacher hands over in its folder; of several processes the first writes it."""
        if shard[0] == 0:
            Inheritance.of(teacher).write(self.folder)
        return self.inheriting(teacher)

    def inheriting(self, teacher: Run | Field) -> Self:
        """The same store, whose data also know what the teacher hands over; its folder stays as it is."""
        own = Inheritance.of(teacher)
        if own.codec is None and own.real is None:
            return self
        made = copy.copy(self)
        made._inheritance = own if own.codec is not None else own.over(self.inheritance)
        return made
