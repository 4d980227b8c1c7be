"""What the rows of a command are asked to be: labels, captions, or columns of given rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

from rheos.commands import kit

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Data
    from rheos.train import Run

__all__ = ["Asked", "asked", "read_labels"]


@final
@dataclass(frozen=True)
class Asked:
    """Columns of the rows to draw.

    Args:
        cond: By name, n rows each.
        texts: By name, what the file of each row says of it.
        index: The held-out rows (or rows of the run's data, where none were held out) whose columns these are; None
            where they come from elsewhere.
    """

    cond: dict[str, "Tensor"] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    index: "Tensor | None" = None

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

    Where nothing is given, labels come in turn, and everything else from the rows that training held out, shuffled once
    for all; both by a row's seed, so that a row keeps them. Labels beside such columns are those of the same rows.

    Args:
        run: The run.
        n: How many rows.
        first: Seed of the first row.
        label: A class by number or name, or none.
        caption: Texts, in turn from the first row on; "none" alone for none.
        given: Where rows are read that give captions, masks and other columns, like the data of the run; also by seed.

    Raises:
        OptionError: For a flag that this run has no use for.
        ConditionError: If the flow knows no such class or caption, or a column is nowhere to be had.
    """
    from rheos.train.drawing import CAPTIONED, columns, needs

    wanted, words = needs(run), list(caption)
    captioned = wanted & frozenset(CAPTIONED) if run.prompted is None else wanted
    if run.prompted is not None and wanted and not words:
        raise kit.misuse("This flow is a student of a pipeline and needs prompts: --caption TEXT, or --caption none.")
    if words and not captioned:
        raise kit.misuse("--caption is for flows of captions; this one was trained without. Leave it out.")
    found = Asked()
    if words == ["none"]:
        if not captioned <= run.field.conditions:
            raise kit.misuse("This flow begins at a caption, so there is none without. Give one: --caption TEXT.")
    elif words:
        texts = [words[k % len(words)] for k in range(n)]
        found.cond.update(columns(run, {"caption": texts}, n))
        found.texts["caption"] = texts
    rest = sorted(wanted - {"label"} - (captioned if words else frozenset()))
    if given is not None and not rest:
        raise kit.misuse("--given has rows for flows that need masks, captions or pictures; this one needs none.")
    if rest:
        index = _take(found, run, rest, n, first, given)
        found = replace(found, index=index if given is None else None)
    if label is None and "label" in found.cond:  # of the same rows as the rest
        labels: Tensor | None = found.cond.pop("label")
    elif label is None and words and "label" in run.field.conditions:
        labels = None  # nobody said which class this caption has
    else:
        labels = read_labels(run, label, n, first)
    if labels is not None:
        names = run.config["data"]["class_names"]
        found.cond["label"] = labels
        found.texts["label"] = [names[k] for k in labels.tolist()]
    return found


def _take(found: Asked, run: "Run", wanted: list[str], n: int, first: int, given: str | None) -> "Tensor":
    """Columns of rows of data, row by row as the seeds count; gives the rows' numbers."""
    import torch

    from rheos.commands.given import rows_like
    from rheos.core.draws import Draws
    from rheos.core.errors import ConditionError
    from rheos.train.drawing import CAPTIONED

    data = _held_out(run, wanted) if given is None else rows_like(run, given, pictures=False)
    index = (torch.arange(n) + first) % len(data)
    if given is None:  # a part of them is a fair sample: data often come class by class
        index = Draws.training(2, 0, len(data)).permutation("rows")[index]
    for name in wanted:
        column = data.columns.get(name)
        if not isinstance(column, torch.Tensor):
            raise ConditionError(f"This flow needs {name!r} of every sample, and {data!r} has no such column.")
        found.cond[name] = column[index]
    labels, texts = data.columns.get("label"), data.columns.get("caption")
    if isinstance(labels, torch.Tensor) and list(data.class_names) == list(run.config["data"]["class_names"]):
        if "label" in run.field.conditions:
            found.cond["label"] = labels[index]
        if not isinstance(texts, list):
            texts = [data.class_names[k] for k in labels.tolist()]  # which were embedded
    if isinstance(texts, list) and set(CAPTIONED) & set(wanted):
        found.texts["caption"] = [texts[k] for k in index.tolist()]
    found.texts["row"] = [str(k) for k in index.tolist()]
    if given is not None:
        found.texts["given"] = [given] * n
    return index


def _held_out(run: "Run", names: list[str]) -> "Data":
    from rheos.core.errors import DataError

    try:
        rest = run.held_out(coded=False)
        return run.real() if rest is None else rest
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
    if label.isdigit() and not any(name.isdigit() for name in names):
        number = int(label)
        if number >= len(names):
            raise ConditionError(f"--label must lie in 0 .. {len(names) - 1}, got {number}.")
    else:
        check_choice("label", label, names)
        number = names.index(label)
    return torch.full((n,), number)
