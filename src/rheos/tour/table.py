"""The table of quality against network calls and seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rheos.show import Page

__all__ = ["quality_table"]

HEAD = ("flow", "steps", "evaluations", "Fréchet distance", "recognised", "precision", "recall", "training s")


def quality_table(page: Page, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of `Tour.measure` as a table."""
    page.table(HEAD, [_cells(row) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    known = "–" if row["recognised"] is None else f"{100 * row['recognised']:.1f} %"
    error = "" if row["frechet_error"] is None else f" ± {row['frechet_error']:.1f}"
    return [
        row["flow"], str(row["steps"]), f"{row['evaluations']:g}", f"{row['frechet']:.2f}{error}", known,
        f"{row['precision']:.2f}", f"{row['recall']:.2f}", f"{row['seconds']:.0f}",
    ]  # fmt: skip
