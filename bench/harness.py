"""Timing two things in turn, so that a drifting machine hurts both alike, and reporting their ratio."""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """A measured figure and its target.

    Args:
        name: What is compared.
        peer: With what.
        value: The figure (a ratio of medians unless the unit says otherwise).
        op: "<=" or ">=".
        target: The threshold.
        unit: "ratio", or what is counted.
        detail: The times behind it, and their spread.
    """

    name: str
    peer: str
    value: float
    op: str
    target: float
    unit: str = "ratio"
    detail: str = ""
    device: str = "cpu"

    @property
    def holds(self) -> bool:
        return self.value <= self.target if self.op == "<=" else self.value >= self.target

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "value": round(self.value, 4), "holds": self.holds, "cores": os.cpu_count()}


@dataclass(frozen=True)
class Timing:
    """Seconds of one function over the repeats."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median: the noise of the machine."""
        low, _, high = quantiles(self.seconds, n=4)
        return (high - low) / self.median

    def text(self, scale: float = 1e6, unit: str = "µs") -> str:
        return f"{self.median * scale:.1f} {unit} (quartiles ± {50 * self.spread:.0f} %)"


def in_turn(functions: dict[str, Callable[[], object]], repeats: int = 15, warm: int = 2) -> dict[str, Timing]:
    """Time the functions A B C A B C …; returns the seconds of each.

    Args:
        functions: By name.
        repeats: Counted rounds.
        warm: Rounds that are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.disable()
    try:
        for round_ in range(repeats + warm):
            for name, f in functions.items():
                begun = time.perf_counter()
                f()
                if round_ >= warm:
                    seconds[name].append(time.perf_counter() - begun)
    finally:
        gc.enable()
    return {name: Timing(tuple(s)) for name, s in seconds.items()}
