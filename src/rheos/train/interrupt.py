"""Ctrl-C and SIGTERM as a wish that a loop grants at the end of its step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import final

__all__ = ["Interruption", "going_on", "how_to_go_on", "interruptible"]

_HINT: ContextVar[str | None] = ContextVar("hint", default=None)


@contextmanager
def going_on(hint: str) -> Iterator[None]:
    """Say in another way how what is stopped inside the with-block is continued: a command, say; the outermost counts.

    Args:
        hint: A sentence without its full stop.

    Example:
        >>> with going_on("Go on:  rheos train --resume --out runs/mine"), going_on("Ask again"):
        ...     how_to_go_on()
        'Go on:  rheos train --resume --out runs/mine'
    """
    token = _HINT.set(_HINT.get() or hint)
    try:
        yield
    finally:
        _HINT.reset(token)


def how_to_go_on() -> str:
    """What a message says of continuing."""
    return _HINT.get() or "Continue with resume=True"


@final
class Interruption:
    """Whether somebody asked to stop.

    Attributes:
        signal: SIGINT, SIGTERM, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0

    def stop(self, message: str) -> None:
        """End the program as the signal would have: KeyboardInterrupt for Ctrl-C, exit status 143 for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        import sys

        sys.stderr.write(f"{message}\n")
        raise SystemExit(128 + self.signal)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch the first Ctrl-C or SIGTERM inside the with-block; a second one acts at once.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    wish = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        wish.signal = number
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield wish
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
