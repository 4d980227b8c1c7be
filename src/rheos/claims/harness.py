"""Running a claim: the module is found by its slug, timed, and its record kept."""

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rheos.claims import checkout
from rheos.claims.catalogue import PACKAGE, method
from rheos.claims.ledger import write_page
from rheos.claims.record import Outcome, Record

__all__ = ["Claim", "Say", "load_claim", "reproduce"]

Say = Callable[[str], None]
"""Called with a line before each part of the work."""


class Claim(Protocol):
    """A paper's promise as an experiment; a module `rheos.claims.SLUG` has one as `CLAIM`."""

    @property
    def slug(self) -> str:
        """Of the method."""

    @property
    def statement(self) -> str:
        """What is claimed, in one sentence."""

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """Measure method and baseline with one budget.

        Args:
            quick: About a minute on two cores: the direction, not the size.
            seeds: Each is a repetition, run one after another.
            progress: Told what is being done.
        """


def load_claim(slug: str) -> Claim:
    """The claim of a method.

    Raises:
        UnknownOptionError: If there is no such method.
        OptionError: If its claim is not written yet.
    """
    from rheos.core.errors import OptionError

    known = method(slug)
    if not (PACKAGE / "claims" / f"{slug}.py").is_file():
        raise OptionError(f"{known.title} ({slug}) is planned and has no claim yet. See: rheos list.")
    return cast(Claim, import_module(f"rheos.claims.{slug}").CLAIM)


def reproduce(
    slug: str | Claim,
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    progress: Say = lambda line: None,
) -> Record:
    """Run a claim and keep its record.

    A full run writes claims/SLUG.json and docs/pictures/claims/SLUG.png, and in a checkout docs/claims.md; a quick one
    writes nothing.

    Args:
        slug: Of the method, or a claim object of your own.
        quick: About a minute: the direction of the claim, not its size.
        seeds: Repetitions; three, or one when quick, unless given.
        out: Folder to write into; the checkout, or the working directory outside one, unless given.
        progress: Called with a line before each part of the work.

    Raises:
        UnknownOptionError: If there is no such method.
        OptionError: If its claim is not written yet, or there are no seeds.
        RunError: If the record cannot be written.
    """
    from rheos.core.errors import OptionError

    claim = load_claim(slug) if isinstance(slug, str) else slug
    chosen = tuple(seeds) if seeds is not None else ((0,) if quick else (0, 1, 2))
    if not chosen or len(set(chosen)) != len(chosen):
        raise OptionError(f"seeds must be at least one, and different, got {list(chosen)}.")
    begun = time.perf_counter()
    outcome = claim.run(quick, chosen, progress)
    assert outcome.figures, "a claim measures something"
    kind = "Quick run: the direction of the claim, not its size." if quick else time.strftime("Measured on %Y-%m-%d.")
    record = Record(
        slug=claim.slug,
        statement=claim.statement,
        figures=outcome.figures,
        seeds=chosen,
        seconds=time.perf_counter() - begun,
        cores=checkout.cores(),
        device="cpu",
        versions=checkout.versions(),
        commit=checkout.commit(),
        notes=(kind, *outcome.notes),
    )
    if not quick:
        folder = out or checkout.root() or Path.cwd()
        record.save(folder / "claims" / f"{claim.slug}.json")
        if outcome.picture is not None:
            checkout.write(folder / "docs" / "pictures" / "claims" / f"{claim.slug}.png", outcome.picture)
        if folder == checkout.root():
            write_page(folder)
    return record
