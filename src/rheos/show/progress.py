"""Progress bars for long work: on terminals, or when asked; silent otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(name: str, total: int, show: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error.

    Args:
        name: What is counted.
        total: The end.
        show: Whether to draw; None: if standard error is a terminal.

    Yields:
        A function of (done, total).
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
