"""Every error that rheos raises on purpose.

Each is a `RheosError` and also the builtin that a caller would expect, says what came, what was wanted
and the way out in at most three sentences, and carries the values as attributes.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConditionError",
    "DataError",
    "MissingExtraError",
    "NonFiniteError",
    "OptionError",
    "RheosError",
    "RunError",
    "ShapeError",
    "SourceNotGaussianError",
    "StepSizeError",
    "TimeError",
    "UnknownOptionError",
    "check_choice",
    "missing_extra",
]


class RheosError(Exception):
    """The root; catch it to catch everything that rheos raises on purpose.

    Args:
        message: What came, what was expected, what to do.
        **values: The values behind the message, kept as attributes for programs.
    """

    def __init__(self, message: str, **values: object) -> None:
        super().__init__(message)
        self.values = values


class OptionError(RheosError, ValueError):
    """An argument has a value outside its range."""


class UnknownOptionError(OptionError, LookupError):
    """A name that is not among the known ones; the message lists near names."""


class ShapeError(RheosError, ValueError):
    """Tensors whose shapes do not fit each other."""


class TimeError(RheosError, ValueError):
    """Times outside [0, 1], not increasing, or of the wrong shape."""


class ConditionError(RheosError, ValueError):
    """A condition that is missing, unknown, of the wrong shape or out of range."""


class SourceNotGaussianError(RheosError, ValueError):
    """A score, an SDE or classifier guidance was asked of a flow whose source is not N(0, I)."""


class NonFiniteError(RheosError, ArithmeticError):
    """A NaN or an infinity where a number was needed."""


class StepSizeError(RheosError, ArithmeticError):
    """An adaptive solver cannot meet its tolerance."""


class DataError(RheosError, ValueError):
    """Data that cannot be read, is empty, or holds values outside its declared range."""


class RunError(RheosError, OSError):
    """A run directory that cannot be created, written, found or resumed."""


class CheckpointError(RheosError, ValueError):
    """A checkpoint file that is truncated, foreign, or made for another network."""


class MissingExtraError(RheosError, ImportError):
    """A feature whose optional dependency is not installed."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `UnknownOptionError` with near names unless `value` is one of `choices`.

    Example:
        >>> check_choice("solver", "huen", ["euler", "heun"])
        Traceback (most recent call last):
        ...
        rheos.core.errors.UnknownOptionError: solver 'huen' is unknown; did you mean 'heun'? Known: euler, heun.
    """
    known = list(choices)
    if value in known:
        return
    near = get_close_matches(str(value), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    raise UnknownOptionError(
        f"{name} {value!r} is unknown{hint} Known: {', '.join(known)}.", name=name, value=value, near=near
    )


def missing_extra(feature: str, package: str, extra: str) -> MissingExtraError:
    """The error for a feature whose optional package is absent, with the command that installs it."""
    return MissingExtraError(
        f"{feature} needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'rheos[{extra}]'.",
        package=package,
        extra=extra,
    )
