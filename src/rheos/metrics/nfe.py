"""Counting what was really evaluated: calls of a network, and rows in them."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from rheos.core.errors import OptionError

__all__ = ["Nfe"]


class Nfe:
    """Count the calls of a network and the rows of its first tensor, wherever the calls come from.

    `with Nfe(net) as nfe:` counts every call of a module inside the block, also those made by a field or a
    solver, and leaves the module as it was; `Nfe(f)` is a callable in place of any `f`. The figure to report is
    `nfe.per_row(n)`: evaluations a sample, in which guidance by two branches counts twice. A part of a compiled
    module is not seen, so count the compiled module itself.

    Args:
        net: A module, or any callable whose first argument (or first tensor by keyword) has its rows first.

    Raises:
        OptionError: If something that is no module is used in a `with` block.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> with Nfe(net) as nfe:
        ...     _ = net(torch.zeros(8, 2)), net(torch.zeros(4, 2))
        >>> nfe.calls, nfe.rows, nfe.per_row(4)
        (2, 12, 3.0)
    """

    def __init__(self, net: Callable[..., Any]) -> None:
        self.net = net
        self.calls = 0
        self.rows = 0
        self._hook: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network; counted."""
        if self._hook is None:
            self._count(args, kwargs)
        return self.net(*args, **kwargs)

    def per_row(self, rows: int) -> float:
        """Evaluations a sample, for `rows` samples."""
        return self.rows / rows

    def reset(self) -> None:
        """Start again from zero."""
        self.calls = self.rows = 0

    def __enter__(self) -> "Nfe":
        if not isinstance(self.net, nn.Module):
            raise OptionError(
                f"Only a module can be counted in a with block, got {type(self.net).__name__}. "
                "Put Nfe(f) in place of the function f instead."
            )
        if self._hook is None:
            self._hook = self.net.register_forward_pre_hook(
                lambda _, args, kwargs: self._count(args, kwargs), with_kwargs=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        self._hook = None

    def __repr__(self) -> str:
        return f"Nfe(calls={self.calls}, rows={self.rows})"

    def _count(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.calls += 1
        self.rows += next((r for r in map(_rows, (*args, *kwargs.values())) if r is not None), 1)


def _rows(value: object) -> int | None:
    if isinstance(value, dict):
        return next((r for r in map(_rows, value.values()) if r is not None), None)
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else None
