"""The checker of the typed test run (`make typed`): beartype, less the hints that it cannot or should not judge here.

- `typing.Self` means nothing to beartype outside a class that it decorates as a whole, and jaxtyping decorates methods
  one by one. Protocols that are not runtime-checkable cannot be asked either.
- `Literal` names options, which our own errors refuse in better words; tests ask for those words.
- An integer is a float, as in PEP 484.

What is left out here is left to mypy.
"""

from collections.abc import Callable
from typing import Any, Literal, Self, get_args, get_origin

from beartype import BeartypeConf, beartype

__all__ = ["check"]

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _judged(hint: Any) -> bool:
    """Whether a hint, with all its parts, is beartype's to judge."""
    if hint is Self or get_origin(hint) is Literal:
        return False
    if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
        return False
    return all(_judged(part) for part in get_args(hint))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its arguments and its result checked at every call."""
    hints = getattr(function, "__annotations__", {})
    if not all(map(_judged, hints.values())):
        function.__annotations__ = {name: hint for name, hint in hints.items() if _judged(hint)}
    return _beartype(function)
