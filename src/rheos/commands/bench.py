"""`rheos bench`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import tyro

from rheos.commands import kit

__all__ = ["Options", "main"]

EXAMPLES = "rheos bench sampling"


@dataclass(frozen=True)
class Options:
    """Time the library beside its peers, in turn in one process, and print ratios.

    Benchmarks live in the source checkout; results are kept in bench/results.json. The exit code is 0 when every
    target is met and 1 when one is not.

    Args:
        names: Benchmarks to run; all unless given.
        json: Print the ratios as JSON on standard output.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the benchmarks."""
    options = kit.parse(Options, argv, "bench", EXAMPLES)
    from rheos.core.errors import check_choice

    harness = _harness()
    for name in options.names:
        check_choice("benchmark", name, harness.BENCHES)
    rows: list[dict[str, Any]] = harness.main(options.names, kit.say)
    if options.json:
        kit.emit(rows)
    else:
        kit.table(
            ("benchmark", "peer", "ratio", "target", "met"),
            [
                (r["name"], r["peer"], f"{r['value']:.3g}", f"{'≤' if r['op'] == '<=' else '≥'} {r['target']:g}",
                 "yes" if r["holds"] else "NO")
                for r in rows
            ],
        )  # fmt: skip
    return 0 if all(r["holds"] for r in rows) else 1


def _harness() -> Any:
    """The checkout's `bench.run`."""
    from rheos.claims.checkout import root
    from rheos.core.errors import RunError

    here = root()
    if here is None or not (here / "bench" / "run.py").is_file():
        raise RunError(
            "Benchmarks need a source checkout, and this package was installed without one. "
            "Get the source, run pip install -e '.[bench]' in it, and call rheos bench there."
        )
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    return import_module("bench.run")
