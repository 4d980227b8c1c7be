"""The ledger: docs/claims.md, made of the records and nothing else, so that it can be checked."""

import json
from collections.abc import Iterable
from pathlib import Path

from rheos.claims import checkout
from rheos.claims.methods import METHODS, Method
from rheos.claims.record import Figure, Record

__all__ = ["page", "read_records", "write_page"]

_HEAD = """# Claims

What the papers promise, measured here. Each claim runs method and baseline with one budget; its thresholds were fixed
before it was measured. A claim that does not hold is shown as not holding, with what was tried. "Within the noise"
stands beside a verdict that single seeds would give both ways, or whose figure is no further from its threshold than
one standard deviation of single seeds: so few of them cannot tell on which side it lies.

This page is made of `claims/*.json` by `python -m rheos.claims`. To measure a line again:

```text
rheos reproduce SLUG            # the full run: minutes, three seeds, writes the record
rheos reproduce SLUG --quick    # the direction only: about a minute, writes nothing
```

"""


def read_records(folder: Path) -> dict[str, Record]:
    """Records by slug.

    Raises:
        CheckpointError: For a file that is no record.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = Record.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            from rheos.core.errors import CheckpointError

            raise CheckpointError(
                f"{path} is no record of a claim. Run it again: rheos reproduce {path.stem}."
            ) from error
    return found


def page(records: dict[str, Record], pictures: Iterable[str] = ()) -> str:
    """The ledger as Markdown, in the order of the table of methods.

    Args:
        records: By slug.
        pictures: Slugs that have a picture.
    """
    shown = set(pictures)
    known = [m for m in METHODS if m.slug in records]
    lines = [_HEAD, "| method | verdict | figures that hold | within the noise | seeds | seconds | cores | commit |\n"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
    for m in known:
        r = records[m.slug]
        good, noisy = (sum(flags) for flags in zip(*((f.holds, f.within_noise) for f in r.figures), strict=True))
        verdict = "holds" if r.holds else "**does not hold**"
        lines.append(
            f"| [{m.slug}](#{m.slug}) | {verdict} | {good} of {len(r.figures)} | {noisy} "
            f"| {len(r.seeds)} | {r.seconds:.0f} | {r.cores} | {r.commit} |\n"
        )
    return "".join(lines) + "".join(_section(m, records[m.slug], m.slug in shown) for m in known)


def _section(m: Method, r: Record, picture: bool) -> str:
    source = f"*{m.title}* ({m.year})" + (f", <{m.paper}>" if m.paper else "")
    figure = f"![What was measured for {m.slug}](pictures/claims/{m.slug}.png)\n\n" if picture else ""
    seeds, versions = ", ".join(map(str, r.seeds)), ", ".join(f"{name} {number}" for name, number in r.versions.items())
    circumstances = f"Seeds {seeds}; {r.seconds:.0f} s on {r.cores} cores ({r.device}); commit {r.commit}; {versions}."
    return (
        f"\n({m.slug})=\n\n## {m.slug}\n\n{source}\n\n{r.statement}\n\n{figure}"
        "| figure | measured | single seeds | claimed | holds |\n| --- | --- | --- | --- | --- |\n"
        + "".join(_line(f) for f in r.figures)
        + "\n"
        + "".join(f"- {note}\n" for note in (*r.notes, circumstances))
    )


def _line(f: Figure) -> str:
    op, verdict = "≤" if f.op == "<=" else "≥", f.verdict if f.holds else f.verdict.replace("no", "**no**", 1)
    seeds = f"{min(f.seeds):.3g} to {max(f.seeds):.3g}" if len(f.seeds) > 1 else ""
    return f"| {f.name} | {f.value:.3g} | {seeds} | {op} {f.threshold:g} | {verdict} |\n"


def write_page(folder: Path) -> Path:
    """Write docs/claims.md of a checkout from its records."""
    path = folder / "docs" / "claims.md"
    pictures = [p.stem for p in (folder / "docs" / "pictures" / "claims").glob("*.png")]
    checkout.write(path, page(read_records(folder / "claims"), pictures).encode())
    return path
