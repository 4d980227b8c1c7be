"""How many bytes a function has alive at its worst moment."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


def peak_bytes(f: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors that `f` has alive at once, beside those that were there before.

    On a GPU its allocator counts; on a CPU every result of an operation is counted while its storage lives, and what an
    operation has for itself is not.

    Args:
        f: Called once; call it before, so that what it keeps is there already.
        device: Where it computes.

    Example:
        >>> peak_bytes(lambda: torch.zeros(1000).add(1).sum())
        8000
    """
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        f()
        torch.cuda.synchronize(where)
        return int(torch.cuda.max_memory_allocated(where) - before)
    alive = _Alive()
    with alive:
        f()
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of all results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, dict(kwargs))):  # what was there before is not counted
            if isinstance(value, Tensor):
                self.known.add(value.untyped_storage()._cdata)
        out = func(*args, **kwargs)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._meet(value.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
