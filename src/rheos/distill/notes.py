"""What a contest writes down in its folder: what it was asked for, and how long its work took in all calls."""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

from rheos.core.errors import DataError, RunError
from rheos.core.files import taken, write_whole

__all__ = ["Note", "agree", "alone"]

RULES = "rules.json"
PLANNED = (
    "A training cannot be given more time afterwards: its learning rate falls to nothing over the steps that were "
    "planned, and its stages share them out, so with steps added it would be another training than a longer contest's."
)
EVERY = 2.0
"""Seconds between two notes of how long work has taken: as many are lost at most when a process is killed."""


@final
class Note:
    """A file about one piece of work: what was settled before it, and its seconds in all calls together.

    Args:
        path: The file.
        made: What the work leaves; where that is gone, its seconds count no longer.

    Raises:
        DataError: If the file is damaged.
    """

    def __init__(self, path: Path, made: Path) -> None:
        self.path, self._writing = path, threading.Lock()
        self._values = _read(path) or {}
        if not made.exists():
            self._values.pop("seconds", None)
            self._values.pop("done", None)

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name)

    @property
    def seconds(self) -> float:
        """Of all calls together."""
        return float(self._values.get("seconds", 0.0))

    def settle(self, **values: float) -> None:
        """Write numbers down."""
        with self._writing:
            self._values |= values
            write_whole(self.path, json.dumps(self._values))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds of the block, also of one that is interrupted; what was finished before takes none.

        They are written down on the way, so that a process that is killed loses few of them.
        """
        if self._values.get("done"):
            yield
            return
        before, begun, done, over = self.seconds, time.perf_counter(), False, threading.Event()

        def spent() -> float:
            return before + time.perf_counter() - begun

        def along() -> None:
            while not over.wait(EVERY):
                with suppress(OSError):  # a full disk is told of by the work itself
                    self.settle(seconds=spent())

        writer = threading.Thread(target=along, name=f"seconds of {self.path.stem}", daemon=True)
        writer.start()
        try:
            yield
            done = True
        finally:
            over.set()
            writer.join()
            self.settle(seconds=spent(), done=done)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder for this process alone inside a with-block.

    Raises:
        RunError: If another contest is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        if not taken(file):
            raise RunError(f"Another contest is at work in {folder}. Wait for it, or choose another out.")
        yield


def agree(folder: Path, rules: Mapping[str, Any], shares: Mapping[Path, float]) -> None:
    """Write down what a contest is asked for; one that is there must have been asked for the same.

    Args:
        folder: Of the contest.
        rules: By name, plain values; those whose names end in "fingerprint" are not shown.
        shares: Seconds of each training, by its note.

    Raises:
        RunError: For a contest that was asked for something else; it says what differs.
        DataError: If a file is damaged.
    """
    file, wanted = folder / RULES, json.loads(json.dumps(rules))
    if not (folder / "pairs" / "store.json").exists():
        write_whole(file, json.dumps(wanted, indent=1) + "\n")
        return
    old = _read(file)
    if old is None:
        raise RunError(f"{folder} holds a contest that does not say what it was asked for. Choose another out.")
    differ = [_told(name, old.get(name), value) for name, value in wanted.items() if old.get(name) != value]
    recut = "budget" in wanted and old.get("budget") != wanted["budget"]
    if not differ:
        differ = _recut(shares)
        recut = bool(differ)
    if differ:
        raise RunError(
            f"{folder} holds a contest with {'; '.join(differ)}. Ask for the same to continue it, or choose another "
            f"out.{f' {PLANNED}' if recut else ''}",
            differ=differ,
        )


def _recut(shares: Mapping[Path, float]) -> list[str]:
    """That trainings had another share of the budget, said of one of them."""
    had = {note: share for note in shares if (share := (_read(note) or {}).get("share")) is not None}
    other = [note for note, share in had.items() if not math.isclose(share, shares[note])]
    if not other:
        return []
    note, more = other[0], f", and {len(other) - 1} more likewise" if len(other) > 1 else ""
    told = f"{note.stem} had {had[note]:.3g} s of the budget, now {shares[note]:.3g} s{more}"
    return [f"other methods or evaluations: {told}"]


def _told(name: str, old: object, new: object) -> str:
    if name.endswith("fingerprint"):
        return f"another {name.removesuffix(' fingerprint')}"
    return f"another {name} ({old}, now {new})"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, dict)
    except FileNotFoundError:
        return None
    except (ValueError, OSError, AssertionError) as error:
        raise DataError(f"{path} is damaged: {error}. Delete the folder, or choose another out.") from error
    return found
