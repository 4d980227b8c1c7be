"""The checker of the typed test run (`make typed`): beartype, less the one hint it cannot see through here.

jaxtyping decorates methods one by one, and `typing.Self` means nothing to beartype outside a class that it decorates
as a whole. So that hint is left to mypy; all others are checked.
"""

from collections.abc import Callable
from typing import Any, Self

from beartype import beartype

__all__ = ["check"]


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its arguments and its result checked at every call."""
    hints = getattr(function, "__annotations__", {})
    if Self in hints.values():
        function.__annotations__ = {name: hint for name, hint in hints.items() if hint is not Self}
    return beartype(function)
