"""`rheos list`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from rheos.commands import kit

__all__ = ["Options", "main"]

EXAMPLES = "rheos list; rheos list data; rheos list --json"


@dataclass(frozen=True)
class Options:
    """List the methods with what was measured, the built-in data, or the solvers.

    A method works when its code, its tests and its claim exist; its verdict is the last full run of its claim.

    Args:
        what: methods, data or solvers.
        json: Print JSON on standard output instead of a table.
    """

    what: Annotated[Literal["methods", "data", "solvers"], tyro.conf.Positional] = "methods"
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Print the list."""
    options = kit.parse(Options, argv, "list", EXAMPLES)
    if options.what == "methods":
        return _methods(options.json)
    names = _data() if options.what == "data" else _solvers()
    if options.json:
        kit.emit([{"name": name, "about": about} for name, about in names])
    else:
        kit.table(("name", "what"), names)
    return 0


def _methods(as_json: bool) -> int:
    from rheos.claims.catalogue import rows

    found = rows()
    if as_json:
        kit.emit(found)
        return 0
    body = [(r["slug"], r["room"], r["state"], r["verdict"] or "–", r["title"]) for r in found]
    working = sum(r["state"] == "works" for r in found)
    holding = sum(r["verdict"] == "holds" for r in found)
    kit.table(
        ("slug", "room", "state", "verdict", "title"),
        body,
        caption=f"{working} of {len(found)} work, {holding} claims hold. Run one: rheos reproduce SLUG --quick",
    )
    return 0


def _data() -> list[tuple[str, str]]:
    from rheos.data.builtin import BUILTIN
    from rheos.data.toys import TOYS

    made = [(name, (reader.__doc__ or "").splitlines()[0].rstrip(".")) for name, reader in BUILTIN.items()]
    return [*made, *((name, "points in the plane") for name in TOYS), ("your own", "a folder of pictures, .npy, .npz")]


def _solvers() -> list[tuple[str, str]]:
    from rheos.sample.methods import SOLVERS

    made = {name: make() for name, make in SOLVERS.items()}
    return [
        (name, f"order {s.order}, {s.evaluations} network call{'s' if s.evaluations > 1 else ''} a step")
        for name, s in made.items()
    ]
