"""The pages of the reference: one a room, a section a module, made from the package so that none is missing."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import rheos

__all__ = ["ROOMS", "make"]

PACKAGE = Path(rheos.__file__).parent

ROOMS = {
    "core": "the nouns",
    "nets": "networks",
    "data": "data",
    "sample": "sampling",
    "train": "training",
    "metrics": "figures of quality and cost",
    "distill": "few steps",
    "guide": "steering and editing",
    "adapters": "other libraries",
    "claims": "claims that run",
    "show": "pictures and pages",
    "tour": "the tour",
}

FIRST = (
    "schedules", "paths", "spaces", "state", "field", "query", "mixture", "base", "objectives", "couplings", "times",
    "draw", "loop", "steer", "solver", "load", "loading", "fit", "options", "run",
)  # fmt: skip
"""Modules that a reader wants first; the others follow by name."""


def _own(path: Path) -> set[str]:
    """Names that a module binds itself: a name that is passed on is described once, at home."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in body:
        match node:
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def _section(name: str, path: Path) -> str:
    """One module, or nothing when it has no names of its own."""
    own = _own(path)
    members = [n for n in getattr(import_module(name), "__all__", ()) if n in own]
    if not members:
        return ""
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members: {', '.join(members)}\n```\n"


def _page(room: str, title: str) -> str:
    modules = {p.stem: p for p in (PACKAGE / room).glob("*.py") if not p.stem.startswith("_")}
    order = sorted(modules, key=lambda stem: (FIRST.index(stem) if stem in FIRST else len(FIRST), stem))
    head = inspect.getdoc(import_module(f"rheos.{room}")) or ""
    sections = [_section(f"rheos.{room}.{stem}", modules[stem]) for stem in order]
    return "\n".join([f"# rheos.{room}: {title}\n", head, "", *filter(None, sections)])


def write(path: Path, text: str) -> None:
    """Write a page only when it changed, so that a second build has nothing to do."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def make(folder: Path) -> None:
    """Write the page of each room, and remove those of rooms that are gone."""
    rooms = {room: title for room, title in ROOMS.items() if (PACKAGE / room / "__init__.py").exists()}
    for room, title in rooms.items():
        write(folder / f"{room}.md", _page(room, title))
    for stale in folder.glob("*.md"):
        if stale.stem not in rooms:
            stale.unlink()
