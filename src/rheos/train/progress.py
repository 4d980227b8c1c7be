"""The bar of a training: steps, speed, loss, time left; on terminals, or when asked."""

import sys
import time
from typing import Any, final

__all__ = ["Bar"]

_PAUSE = 0.1  # seconds between redrawings


@final
class Bar:
    """A progress bar on standard error; silent unless shown.

    Args:
        total: Steps of the run.
        start: Steps done before.
        show: Whether to draw; None: if standard error is a terminal.
    """

    def __init__(self, total: int, start: int, show: bool | None) -> None:
        self._bar: Any = None
        self._next = 0.0
        if sys.stderr.isatty() if show is None else show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.fields[speed]}{task.fields[loss]}")
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("training", total=total, completed=start, speed="", loss="")
            self._start, self._begun = start, time.perf_counter()

    def __enter__(self) -> "Bar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int) -> None:
        """Show that `done` steps are done; redraws at most ten times a second."""
        if self._bar is None:
            return
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _PAUSE
            speed = (done - self._start) / (now - self._begun)
            self._bar.update(self._task, completed=done, speed=f"{speed:.3g} steps/s")

    def loss(self, done: int, value: float | None) -> None:
        """Show the loss beside the bar."""
        if self._bar is not None and value is not None:
            self._bar.update(self._task, completed=done, loss=f", loss {value:.4g}")
