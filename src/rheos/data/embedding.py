"""Captions as numbers that batches carry, and embedders by name, so that a file can say which."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from rheos.core.errors import ConditionError, OptionError, check_choice
from rheos.data.dataset import Data
from rheos.data.recipe import EMBEDDING
from rheos.data.text import CLIPText, EmojiCaptions, Letters, MiniLM, T5Text, located

__all__ = ["Embedder", "embedded", "embedder"]

Embedder = Callable[[list[str]], Tensor | tuple[Tensor, Tensor]]
"""From texts to one tensor, rows first, or to tokens and the mask of those that count; see `rheos.data.text`."""

NAMES = ("clip", "emoji", "letters", "minilm", "t5")


def embedder(name: str) -> Embedder:
    """An embedder of `rheos.data.text` by its name; the last one is kept, with its model, for the next call.

    Args:
        name: "minilm", or "minilm:16" for features of 16 tokens; "emoji", the stored captions of that set;
            "letters:5", one-hot letters, and "letters:5:cut" for texts of any length and signs; "clip:PATH" and
            "t5:PATH" for a model's folder. Nothing is downloaded.

    Raises:
        UnknownOptionError: For an unknown name.
        OptionError: If it is no name, or the part after the colon is missing or is none.
        MissingExtraError: If the package for it is not installed.

    Example:
        >>> embedder("letters:5")
        Letters(length=5, alphabet='abcdefghijklmnopqrstuvwxyz ', cut=False)
    """
    if not isinstance(name, str):
        raise OptionError(f"embed must be the name of an embedder, such as 'minilm' or 'letters:5', got {name!r}.")
    kind, _, rest = name.partition(":")
    return _made(f"{kind}:{located(rest)}" if kind in ("clip", "t5") and rest else name)


@lru_cache(maxsize=1)  # a model may be large; a process mostly has one
def _made(name: str) -> Embedder:
    kind, colon, rest = name.partition(":")
    check_choice("embed", kind, NAMES)
    if kind in ("clip", "t5"):
        if not rest:
            raise OptionError(f"embed={name!r} lacks the model's folder: {kind}:PATH.")
        return CLIPText(rest) if kind == "clip" else T5Text(rest)
    if kind == "emoji" and not colon:
        return EmojiCaptions()
    cut = kind == "letters" and rest.endswith(":cut")
    rest = rest.removesuffix(":cut") if cut else rest
    if kind == "emoji" or (colon and not rest.isdigit()) or (kind == "letters" and not colon):
        raise OptionError(
            f"embed={name!r} is none of: minilm, minilm:TOKENS, emoji, letters:LENGTH, letters:LENGTH:cut."
        )
    return Letters(int(rest), cut=cut) if kind == "letters" else MiniLM(int(rest or 0))


def embedded(
    data: Data,
    embed: Embedder | str,
    column: str = "caption",
    *,
    name: str = EMBEDDING,
    also: Sequence[str] = (),
) -> Data:
    """The same data with their captions as a tensor column, which batches carry.

    Args:
        data: With a column of text; without captions, the names of the classes are the text.
        embed: An embedder, or its name (see `embedder`). Each different caption is embedded once.
        column: Of the text.
        name: Of the new column; a mask becomes "NAME_mask".
        also: Further columns that batches carry, such as "label" for positives.

    Raises:
        ConditionError: If there is no such column of text.
        OptionError: For an embedder that is neither a name nor a function.

    Example:
        >>> data = Data(torch.zeros(3, 2), {"caption": ["a", "b", "a"]})
        >>> embedded(data, lambda texts: torch.arange(len(texts))[:, None].float()).columns["embedding"].flatten()
        tensor([0., 1., 0.])
    """
    made = embed if callable(embed) else embedder(embed)
    texts = _texts(data, column)
    different = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(different)}
    found = made(different)
    values, mask = found if isinstance(found, tuple) else (found, None)
    index = torch.tensor([row[text] for text in texts])
    columns = {**data.columns, name: values[index]}
    carried = [name, *also]
    if mask is not None:
        columns[f"{name}_mask"] = mask[index]
        carried.append(f"{name}_mask")
    known = getattr(made, "name", None) if (column, name) == ("caption", EMBEDDING) else None
    recipe = data.about.recipe if known is None else replace(data.about.recipe, embed=known)
    about = replace(data.about, recipe=recipe, notes=(*data.notes, *_lost(made, texts)))
    return replace(data, columns=columns, conditions=tuple(dict.fromkeys(carried)), about=about)


def _lost(made: Embedder, texts: list[str]) -> tuple[str, ...]:
    """Sentences on what was cut off."""
    if not isinstance(made, Letters) or not made.cut:
        return ()
    whole = replace(made, length=max(1, *map(len, texts)))
    long = sum(len(whole.fitted(text)) > made.length for text in texts)
    empty = sum(not whole.fitted(text) for text in texts)
    counts = (("are longer than {} letters and were cut", long), ("hold none of the letters, and are empty", empty))
    return tuple(f"{n} of {len(texts)} captions {what.format(made.length)}." for what, n in counts if n)


def _texts(data: Data, column: str) -> list[str]:
    texts = data.columns.get(column)
    if isinstance(texts, list):
        return texts
    labels = data.columns.get("label")
    if column == "caption" and isinstance(labels, Tensor):
        return [data.class_names[k] for k in labels.tolist()]
    known = ", ".join(n for n, c in data.columns.items() if isinstance(c, list)) or "none"
    way = " In a folder, captions are NAME.txt beside NAME.png, captions.txt or metadata.csv." * (column == "caption")
    raise ConditionError(f"The data have no column of text {column!r}; columns of text: {known}.{way}")
