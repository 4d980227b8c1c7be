"""What a claim measured, as plain values: figures with their thresholds, and the record that is kept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal, final

__all__ = ["Figure", "Outcome", "Record", "spread"]

Op = Literal["<=", ">="]


@final
@dataclass(frozen=True)
class Figure:
    """A measured number beside its threshold.

    Args:
        name: What was measured, on what.
        value: The number; a ratio to the baseline wherever that makes sense.
        op: "<=" or ">=".
        threshold: What the claim says.
        seeds: The same number from each seed alone; empty where it does not depend on seeds.

    Example:
        >>> Figure("error, method / baseline", 0.8, "<=", 1.0).holds
        True
        >>> figure = Figure.ratio("error, method / baseline", [0.7, 1.1, 0.9], [1.0, 1.0, 1.0], "<=", 1.0)
        >>> round(figure.value, 6), figure.holds, figure.within_noise
        (0.9, True, True)
    """

    name: str
    value: float
    op: Op
    threshold: float
    seeds: tuple[float, ...] = ()

    @classmethod
    def ratio(cls, name: str, of: Sequence[float], to: Sequence[float], op: Op, threshold: float) -> "Figure":
        """The ratio of two means over seeds."""
        return cls(name, fmean(of) / fmean(to), op, threshold, tuple(a / b for a, b in zip(of, to, strict=True)))

    @classmethod
    def mean(cls, name: str, values: Sequence[float], op: Op, threshold: float) -> "Figure":
        """A mean over seeds."""
        return cls(name, fmean(values), op, threshold, tuple(values))

    @classmethod
    def worst(cls, name: str, values: Sequence[float], op: Op, threshold: float) -> "Figure":
        """That of the seed with the most trouble."""
        return cls(name, max(values) if op == "<=" else min(values), op, threshold, tuple(values))

    @property
    def holds(self) -> bool:
        """Whether the value meets the threshold; a NaN never does."""
        return self._meets(self.value)

    @property
    def within_noise(self) -> bool:
        """Whether so few seeds cannot tell: they give both verdicts, or the threshold is within their deviation."""
        if len(self.seeds) < 2 or not all(map(math.isfinite, self.seeds)):
            return False
        both = len({self._meets(v) for v in self.seeds}) == 2
        return both or abs(self.value - self.threshold) <= stdev(self.seeds) > 0

    def _meets(self, value: float) -> bool:
        return value <= self.threshold if self.op == "<=" else value >= self.threshold

    @property
    def verdict(self) -> str:
        """In words: yes or no, and whether the threshold lies within the noise."""
        return ("yes" if self.holds else "no") + (", within the noise" if self.within_noise else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a value that is no finite number becomes None, which JSON has a word for."""
        return {
            "name": self.name,
            "value": _plain(self.value),
            "op": self.op,
            "threshold": self.threshold,
            "holds": self.holds,
            "seeds": [_plain(v) for v in self.seeds],
            "within_noise": self.within_noise,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Figure":
        """The inverse of `to_dict`."""
        value, *seeds = (math.nan if v is None else float(v) for v in (plain["value"], *plain.get("seeds", ())))
        return cls(plain["name"], value, plain["op"], float(plain["threshold"]), tuple(seeds))


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


@final
@dataclass(frozen=True)
class Outcome:
    """What running a claim gives.

    Args:
        figures: At least one.
        notes: Sentences that belong beside the figures: medians and spreads over seeds, counts, what was tried.
        picture: A PNG, or None.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    picture: bytes | None = None


@final
@dataclass(frozen=True)
class Record:
    """A claim as it was measured, with everything needed to measure it again.

    Args:
        slug: Of the method.
        statement: The claim in one sentence.
        figures: With thresholds.
        seeds: Which were run.
        seconds: Of the whole run.
        cores: That the run might use.
        device: Where the networks ran.
        versions: Of Python and packages.
        commit: Of the source, with "+" when files differed from it; "unknown" outside a checkout.
        notes: As in `Outcome`.
    """

    slug: str
    statement: str
    figures: tuple[Figure, ...]
    seeds: tuple[int, ...]
    seconds: float
    cores: int
    device: str
    versions: Mapping[str, str]
    commit: str
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every figure holds."""
        return all(f.holds for f in self.figures)

    def to_dict(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        return {
            "slug": self.slug,
            "statement": self.statement,
            "holds": self.holds,
            "figures": [f.to_dict() for f in self.figures],
            "seeds": list(self.seeds),
            "seconds": round(self.seconds, 1),
            "cores": self.cores,
            "device": self.device,
            "versions": dict(self.versions),
            "commit": self.commit,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Record":
        """The inverse of `to_dict`; `holds` is worked out again from the figures."""
        return cls(
            slug=plain["slug"],
            statement=plain["statement"],
            figures=tuple(Figure.from_dict(f) for f in plain["figures"]),
            seeds=tuple(plain["seeds"]),
            seconds=float(plain["seconds"]),
            cores=int(plain["cores"]),
            device=plain["device"],
            versions=dict(plain["versions"]),
            commit=plain["commit"],
            notes=tuple(plain["notes"]),
        )

    def save(self, path: Path) -> None:
        """Write as JSON under a temporary name, then rename."""
        from rheos.claims.checkout import write

        write(path, (json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def spread(name: str, values: Sequence[float], unit: str = "") -> str:
    """A sentence with the median and the range of a figure over seeds.

    Example:
        >>> spread("W2", [0.5, 0.75, 0.625])
        'W2: median 0.625, from 0.5 to 0.75 over 3 seeds.'
    """
    if len(values) == 1:
        return f"{name}: {values[0]:.3g}{unit} with one seed."
    low, high = min(values), max(values)
    return f"{name}: median {median(values):.3g}{unit}, from {low:.3g} to {high:.3g} over {len(values)} seeds."
