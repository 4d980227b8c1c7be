"""What the rows of a command are asked to be: labels, captions, or columns of given rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from rheos.commands import kit

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Data
    from rheos.train import Run

__all__ = ["Asked", "asked", "read_labels"]

CAPTIONED = frozenset(("embedding", "embedding_mask"))


@final
@dataclass(frozen=True)
class Asked:
    """Columns of the rows to draw.

    Args:
        cond: By name, n rows each.
        texts: By name, what the file of each row says of it.
    """

    cond: dict[str, "Tensor"] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def of(self, row: int) -> dict[str, str]:
        """What the file of a row says of it."""
        return {name: values[row] for name, values in self.texts.items()}

    @property
    def labels(self) -> "Tensor | None":
        """Class numbers, where there are such."""
        return self.cond.get("label")


def asked(
    run: "Run",
    n: int,
    first: int = 0,
    *,
    label: str | None = None,
    caption: Sequence[str] = (),
    given: str | None = None,
) -> Asked:
    """Columns for n rows of a run, whose seeds begin at `first`.

    Where nothing is given, labels come in turn, and everything else from the rows that training held out, in turn; both
    by a row's seed, so that a row keeps them.

    Args:
        run: The run.
        n: How many rows.
        first: Seed of the first row.
        label: A class by number or name, or none.
        caption: Texts, in turn from the first row on; "none" alone for none.
        given: Where rows are read that give captions, masks and other columns, like the data of the run.

    Raises:
        OptionError: For a flag that this run has no use for.
        ConditionError: If the flow knows no such class or caption, or a column is nowhere to be had.
    """
    from rheos.train.drawing import columns, needs

    wanted = needs(run)
    found = Asked()
    if "label" in wanted or label is not None:
        labels = read_labels(run, label, n, first)
        if labels is not None:
            found.cond["label"] = labels
            found.texts["label"] = [str(k) for k in labels.tolist()]
    words = list(caption)
    if words and not wanted & CAPTIONED:
        raise kit.misuse("--caption is for flows of captions; this one was trained without. Leave it out.")
    if words and words != ["none"]:
        texts = [words[k % len(words)] for k in range(n)]
        found.cond.update(columns(run, {"caption": texts}, n))
        found.texts["caption"] = texts
    rest = sorted(wanted - {"label"} - (CAPTIONED if words else frozenset()))
    if given is not None and not rest:
        raise kit.misuse("--given has rows for flows that need masks, captions or pictures; this one needs none.")
    if rest:
        _take(found, run, rest, n, first, given)
    return found


def _take(found: Asked, run: "Run", names: list[str], n: int, first: int, given: str | None) -> None:
    """Columns of rows of data."""
    import torch

    from rheos.core.errors import ConditionError

    data = _rows(run, given, names)
    index = (torch.arange(n) + (first if given is None else 0)) % len(data)
    for name in names:
        column = data.columns.get(name)
        if not isinstance(column, torch.Tensor):
            raise ConditionError(f"This flow needs {name!r} of every sample, and {data!r} has no such column.")
        found.cond[name] = column[index]
    texts = data.columns.get("caption")
    if isinstance(texts, list) and CAPTIONED & set(names):
        found.texts["caption"] = [texts[k] for k in index.tolist()]
    found.texts["row"] = [str(k) for k in index.tolist()]


def _rows(run: "Run", given: str | None, names: list[str]) -> "Data":
    from rheos.commands.experiment import held_out
    from rheos.core.errors import DataError
    from rheos.data import load

    spec = {k: v for k, v in run.config["data"]["spec"].items() if k != "codec"}  # conditions stay as they are
    if given is not None:
        masks = {"masks": given} if spec.get("masks") is not None else {}
        left_out = ("split", "limit", "flip")
        return load(**{**{k: v for k, v in spec.items() if k not in left_out}, "source": given, **masks})
    try:
        return held_out(spec) or load(**spec)
    except DataError as error:
        raise kit.misuse(
            f"Samples of this flow depend on {', '.join(names)}, and its data cannot be read again ({error}) "
            "Name rows that have them: --given PATH."
        ) from error


def read_labels(run: "Run", label: str | None, n: int, first: int = 0) -> "Tensor | None":
    """One class a row: the given one, none, or each class in turn (by the row's seed, so that a row keeps its class).

    Raises:
        ConditionError: If the flow takes no label, or knows no such class.
    """
    import torch

    from rheos.core.errors import ConditionError, check_choice
    from rheos.train.drawing import needs

    names = list(run.config["data"]["class_names"])
    part = "label" not in run.field.conditions  # of the state, not a condition
    if "label" not in needs(run):
        if label not in (None, "none"):
            raise ConditionError(f"This flow takes no label, it was trained on {run.config['data']['name']} without.")
        return None
    if label is None:
        return (torch.arange(n) + first) % len(names)
    if label == "none":
        if part:
            raise ConditionError("Labels are a part of this flow's states, so there is none without.")
        return None
    if label.isdigit() and label not in names:
        number = int(label)
        if number >= len(names):
            raise ConditionError(f"--label must lie in 0 .. {len(names) - 1}, got {number}.")
    else:
        check_choice("label", label, names)
        number = names.index(label)
    return torch.full((n,), number)
