"""Which methods there are, which of them work, and what was last measured.

A row works when three things exist: its entry point, a claim module `rheos.claims.SLUG`, and a test file (the table
says so, and a test holds the table to the tree, because an installed package comes without tests). Whether an entry
point exists is read from the source, so that listing costs no import of torch.
"""

import ast
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypedDict

from rheos.claims.checkout import root
from rheos.claims.methods import METHODS, Method

__all__ = ["METHODS", "Method", "Row", "method", "resolves", "rows", "works"]

PACKAGE = Path(__file__).resolve().parent.parent


class Row(TypedDict):
    """A line of `rheos list --json`; these keys stay."""

    slug: str
    title: str
    room: str
    entry: str
    state: Literal["works", "planned"]
    verdict: Literal["holds", "fails"] | None


def method(slug: str) -> Method:
    """A method by its slug.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> method("wcfm").title
        'Weighted Conditional Flow Matching'
    """
    for one in METHODS:
        if one.slug == slug:
            return one
    from rheos.core.errors import UnknownOptionError

    near = get_close_matches(slug, [m.slug for m in METHODS], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UnknownOptionError(f"There is no method {slug!r}; {hint}See: rheos list.", value=slug, near=near)


def rows(records: Path | None = None) -> list[Row]:
    """All methods, with their state and last verdict.

    Args:
        records: Folder of the records; the checkout's own, or the ones that came with the package, unless given.
    """
    folder = records or _records()
    return [
        Row(
            slug=m.slug,
            title=m.title,
            room=m.room,
            entry=m.entry,
            state="works" if works(m) else "planned",
            verdict=_verdict(folder / f"{m.slug}.json") if folder else None,
        )
        for m in METHODS
    ]


def works(one: Method) -> bool:
    """Whether code, tests and a claim exist."""
    return bool(one.tests) and (PACKAGE / "claims" / f"{one.slug}.py").is_file() and resolves(one.entry)


def resolves(entry: str) -> bool:
    """Whether "module:object" names something that the module defines or imports at its top level.

    Example:
        >>> resolves("rheos.core.gibbs:Gibbs"), resolves("rheos.core.gibbs:Gips"), resolves("rheos.core.gibbs")
        (True, False, False)
    """
    module, _, name = entry.partition(":")
    parts = module.split(".")
    if not name or parts[0] != PACKAGE.name:
        return False
    stem = PACKAGE.joinpath(*parts[1:])
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return name in set(_names(ast.parse(file.read_text(encoding="utf-8"))))
    return False


def _names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _records() -> Path | None:
    here = root()
    for folder in ((here / "claims") if here else None, PACKAGE / "claims" / "records"):
        if folder is not None and folder.is_dir():
            return folder
    return None


def _verdict(path: Path) -> Literal["holds", "fails"] | None:
    if not path.is_file():
        return None
    try:
        return "holds" if json.loads(path.read_text(encoding="utf-8"))["holds"] else "fails"
    except (ValueError, KeyError, TypeError, OSError):
        from rheos.core.errors import CheckpointError

        raise CheckpointError(f"{path} is no record of a claim. Run it again: rheos reproduce {path.stem}.") from None
