"""The command line: a table of verbs, each a module that is imported when it is asked for.

Nothing here imports torch, so that `rheos --help` and a mistyped verb answer at once. Exit codes: 0 done, 1 measured
and a target or claim does not hold, 2 wrong usage or bad input, 3 failed on the way, 130 interrupted, 141 the reader
of our output went away.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TextIO

__all__ = ["VERBS", "main"]

PYTHON = re.compile(r'\b(skip_corrupt|download|size|range)=("?[\w.]+"?)')
"""Arguments of `rheos.data.load` in a message, which have another form on the command line."""

FLAGS = {
    "choose another out.": "choose another --out.",
    "choose another directory.": "choose another --out.",
}
"""Words of other calls in a message, likewise."""

VERBS: dict[str, str] = {
    "tour": "See it all once: train, sample, straighten and steer a flow, and write a report.",
    "train": "Train a flow on your data: a folder of pictures, a .npz file, or a built-in set.",
    "sample": "Draw samples from a trained flow.",
    "label": "Read labels or masks off pictures, by a flow that was trained for it (symmflow).",
    "eval": "Measure a trained flow: quality against the number of network calls.",
    "tune": "Find the solver and the time grid that follow a trained flow best.",
    "distill": "Make a trained flow few-step: try the methods at equal budget, and keep the best.",
    "reproduce": "Run a paper's claim against its baseline, and say whether it holds.",
    "list": "List the methods with what was measured, the built-in data, or the solvers.",
    "bench": "Time the library beside its peers (in a source checkout).",
}

DONE, UNMET, USAGE, FAILED, INTERRUPTED, NO_READER = 0, 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Without the program's name; the process's own unless given.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        with _short_warnings(debug):
            code = _dispatch(given)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is left in the buffer goes nowhere, without a complaint at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help":
            return _dispatch([words[1], "--help"])
        print(_overview())
        return DONE
    if words[0] == "--version":
        from rheos import __version__

        print(f"rheos {__version__}")
        return DONE
    verb = words[0]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return _say(f"There is no command {verb!r}; {hint}Known: {', '.join(VERBS)}.", USAGE)
    return int(import_module(f"rheos.commands.{verb}").main(words[1:]))


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: rheos COMMAND [options]\n\n"
        "Train a flow, make it one-step, sample it, steer it, measure it.\n\n"
        f"{lines}\n\n"
        "Every command has --help with an example, --json for programs, and --debug to see where an error came from.\n"
        "Begin with: rheos tour"
    )


def _explain(error: Exception) -> int:
    """One sentence for an error, and its exit code."""
    names = {c.__name__ for c in type(error).__mro__}
    text = " ".join(str(error).split()) or type(error).__name__
    if "RheosError" in names:
        text = PYTHON.sub(lambda m: f"--set data.{m[1]}={m[2].strip(chr(34)).lower()}", text)
        for words, flag in FLAGS.items():
            text = text.replace(words, flag)
        return _say(text, FAILED if names & {"NonFiniteError", "StepSizeError"} else USAGE)
    if isinstance(error, OSError):
        return _say(f"{error.strerror or text}: {error.filename or 'a file'}.", FAILED)
    if "MemoryError" in names or "OutOfMemoryError" in names:
        return _say(
            "There is not enough memory. Use a smaller batch, fewer samples at once, or smaller pictures.", FAILED
        )
    kind = type(error).__name__
    return _say(f"Something unexpected went wrong ({kind}: {text}). Run it again with --debug and report it.", FAILED)


def _say(text: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    print(f"rheos{'' if rank == '0' else f' (process {rank})'}: {text}", file=sys.stderr)
    return code


@contextmanager
def _short_warnings(debug: bool) -> Iterator[None]:
    """Warnings as one line each, without the source line."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        print(f"rheos: warning: {message}", file=sys.stderr)

    before = warnings.showwarning
    if not debug:
        warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
