"""`rheos reproduce`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rheos.commands import kit

__all__ = ["Options", "main"]

EXAMPLES = "rheos reproduce wcfm --quick"


@dataclass(frozen=True)
class Options:
    """Run a paper's claim against its baseline, and say whether it holds.

    The full run takes minutes and keeps its record in claims/SLUG.json; --quick takes about one, checks the direction
    of the claim and writes nothing. The exit code is 0 when the claim holds and 1 when it does not.

    Args:
        slug: Of the method; see rheos list.
        quick: The direction only, in about a minute.
        seeds: Repetitions; 3, or 1 when quick, unless given.
        out: Folder to keep the record in; the source checkout, or this folder outside one, unless given.
        json: Print the record as JSON on standard output instead of a table.
    """

    slug: Annotated[str, tyro.conf.Positional]
    quick: bool = False
    seeds: int | None = None
    out: Path | None = None
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the claim."""
    options = kit.parse(Options, argv, "reproduce", EXAMPLES)
    if options.seeds is not None and options.seeds < 1:
        raise kit.misuse(f"--seeds must be at least 1, got {options.seeds}.")
    from rheos.claims.catalogue import method
    from rheos.claims.harness import reproduce

    title = method(options.slug).title
    seeds = None if options.seeds is None else range(options.seeds)
    record = reproduce(options.slug, quick=options.quick, seeds=seeds, out=options.out, progress=kit.say)
    if options.json:
        kit.emit(record.to_dict())
        return 0 if record.holds else 1
    body = [
        (f.name, f"{f.value:.3g}", f"{'≤' if f.op == '<=' else '≥'} {f.threshold:g}", f.verdict) for f in record.figures
    ]
    verdict = "holds" if record.holds else "does NOT hold"
    print(f"{title}\n{record.statement}\n")
    kit.table(("figure", "measured", "claimed", "holds"), body)
    for note in record.notes:
        print(f"- {note}")
    print(f"\nThe claim {verdict}, in {record.seconds:.0f} s on {record.cores} cores.")
    return 0 if record.holds else 1
