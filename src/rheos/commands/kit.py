"""What commands share: reading flags, talking to people on standard error, and to programs on standard output."""

import io
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields
from difflib import get_close_matches
from inspect import getdoc
from textwrap import fill
from typing import Any, TypeVar

__all__ = ["emit", "gather", "misuse", "numbers", "parse", "say", "table"]

T = TypeVar("T")


def misuse(message: str) -> Exception:
    """An error of the command line itself; the typed errors live behind an import of torch, so it is made on use."""
    from rheos.core.errors import OptionError

    return OptionError(message)


def parse(options: type[T], argv: Sequence[str], verb: str, examples: str) -> T:
    """Flags as a frozen dataclass, whose docstring is the help.

    Args:
        options: The dataclass.
        argv: What came after the verb.
        verb: For the help and for errors.
        examples: Shown below the description.

    Raises:
        OptionError: In one sentence, for flags that are unknown, missing or of the wrong kind.
        SystemExit: After printing the help.
    """
    import tyro

    _refuse_unknown(options, argv, verb)
    if list(argv).count("--caption") > 1:
        raise misuse("--caption is given once, with all texts behind it: --caption 'a cat' 'a dog'.")
    text = (getdoc(options) or "").partition("\n\nArgs:")[0]
    text = "\n\n".join(fill(part, 88) for part in text.split("\n\n"))
    shown = io.StringIO()
    asked = "--help" in argv or "-h" in argv
    try:
        with redirect_stderr(shown), _wide(not asked):
            return tyro.cli(
                options,
                prog=f"rheos {verb}",
                description=f"{text}\n\nExample: {examples}",
                args=list(argv),
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise misuse(f"{_sentence(shown.getvalue())} See: rheos {verb} --help.") from None


def _refuse_unknown(options: type[Any], argv: Sequence[str], verb: str) -> None:
    known = {f"--{f.name.replace('_', '-')}" for f in fields(options)} | {"--help"}
    for word in argv:
        flag = word.split("=")[0].replace("_", "-")
        if not word.startswith("--") or flag in known:
            continue
        near = get_close_matches(flag, known, n=2, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise misuse(f"rheos {verb} has no option {flag}{hint} See: rheos {verb} --help.")


@contextmanager
def _wide(on: bool) -> Any:
    """Error boxes are read again below, so their lines must not be wrapped."""
    before = os.environ.get("COLUMNS")
    if on:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if on:
            os.environ.pop("COLUMNS", None)
            if before is not None:
                os.environ["COLUMNS"] = before


def _sentence(box: str) -> str:
    """The first part of a framed message as one sentence."""
    words: list[str] = []
    for line in box.splitlines()[1:]:  # the first is a title
        inner = " ".join(line.strip("│╭╮╰╯ ").split())
        if not inner.strip("─-"):
            if not words:
                continue
            break
        words.append(inner)
    text = " ".join(words).removeprefix("Error parsing ").replace(" (required)", "").rstrip(". ")
    text = re.sub(r"no type matching (.*) could be instantiated from \[(.*)\]", r"expected \1, got \2", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"expected a whole number, got \1", text)
    text = re.sub(r"could not convert string to float: (.*)", r"expected a number, got \1", text)
    return text[:1].upper() + text[1:] + "."


def gather(argv: Sequence[str], flag: str) -> list[str]:
    """The words with all uses of a repeatable flag joined: `--set a=1 --set b=2` becomes `--set a=1 b=2`."""
    kept: list[str] = []
    values: list[str] = []
    taking = False
    for word in argv:
        if word.startswith("--"):
            name, _, value = word.partition("=") if word.startswith(f"{flag}=") else (word, "", "")
            taking = name == flag
            if taking:
                values += [value] if value else []
                continue
        (values if taking else kept).append(word)
    return [*kept, flag, *values] if values else kept


def numbers(text: str, name: str) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        OptionError: If one is not a whole number of at least 1.

    Example:
        >>> numbers("1,2,4", "steps")
        [1, 2, 4]
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise misuse(f"{name} are whole numbers of at least 1, separated by commas, got {text!r}; such as 1,2,4.")
    return found


def say(line: str) -> None:
    """A line for the person who waits; of several processes the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def emit(value: object) -> None:
    """Plain values for programs, as JSON on standard output; a number that is not finite becomes null."""
    if os.environ.get("RANK", "0") == "0":
        print(plain(value))


def plain(value: object) -> str:
    """JSON for files and programs; numbers that it has no word for are null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """A table for people, on standard output; as wide as it needs to be where that is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    grid = Table(box=box.SIMPLE_HEAD)
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(head))]
    for name, right in zip(head, numeric, strict=True):
        grid.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))  # Text: brackets in a name are no markup
    console.print(grid)
    if caption:
        print(fill(caption, 100))


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-–+"
