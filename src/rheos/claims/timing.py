"""Time: one thread for small networks, and timing things in turn, so that a busy machine slows all of them alike."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

__all__ = ["in_turn", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside the with-block: networks of a few hundred rows gain nothing from more, and on a machine that
    others use too they lose much, waiting for each other.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
