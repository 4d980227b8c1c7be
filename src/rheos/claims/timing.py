"""Timing things in turn, so that a busy machine slows all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["in_turn"]


def in_turn(functions: Mapping[str, Callable[[], object]], repeats: int = 15, warm: int = 3) -> dict[str, float]:
    """Median seconds of each function, called A B C A B C ...

    Args:
        functions: By name.
        repeats: Rounds that count.
        warm: Rounds before, which do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    for round_ in range(warm + repeats):
        for name, f in functions.items():
            begun = time.perf_counter()
            f()
            if round_ >= warm:
                seconds[name].append(time.perf_counter() - begun)
    return {name: median(values) for name, values in seconds.items()}
