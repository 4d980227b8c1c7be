"""A state is a tensor or a flat dict of tensors with one batch dimension.

These few functions are all that solvers, objectives and the sampling loop use, so a picture with its mask,
or translations with rotations, flow like one tensor. Coefficients are Python floats (one for all rows), or
tensors whose shape is a prefix of the state's: one a row, or one a row and variable.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from rheos.core.errors import ShapeError

__all__ = [
    "Coefficient", "State", "add", "affine", "concat", "device_of", "dtype_of", "expand", "flat_rows", "is_finite",
    "lerp", "like", "map_state", "map_state_named", "rows", "scale", "select", "split", "tensors", "where_rows",
]  # fmt: skip

State = Tensor | dict[str, Tensor]
Coefficient = float | Tensor | dict[str, float | Tensor] | dict[str, Tensor]


def _named(x: State, first: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(x, dict) or x.keys() != first.keys():
        came = sorted(x) if isinstance(x, dict) else "a tensor"
        raise ShapeError(f"States need the same names: {sorted(first)} meets {came}.")
    return x


def map_state(f: Callable[..., Tensor], x: State, *more: State) -> State:
    """Apply `f` to the tensor, or name by name to dicts with the same names.

    Raises:
        ShapeError: If a dict meets a tensor, or the names differ.
    """
    if isinstance(x, dict):
        return map_state_named(lambda _, *parts: f(*parts), x, *more)
    for y in more:
        if isinstance(y, dict):
            raise ShapeError(f"A tensor state meets a dict state with names {sorted(y)}.")
    return f(x, *more)


def map_state_named(f: Callable[..., State], x: dict[str, Tensor], *more: State) -> dict[str, Tensor]:
    """`map_state` for dicts whose function wants the name first.

    Raises:
        ShapeError: If the names differ.
    """
    others = [_named(y, x) for y in more]
    return {name: cast(Tensor, f(name, v, *(y[name] for y in others))) for name, v in x.items()}


def expand(c: float | Tensor, x: Tensor) -> float | Tensor:
    """A coefficient ready to multiply `x`: trailing axes of one added, cast to x's dtype and device.

    Raises:
        ShapeError: If c's shape is not a prefix of x's (axes of one broadcast).
    """
    if not isinstance(c, Tensor):
        return c
    if c.ndim > x.ndim or any(a not in (1, b) for a, b in zip(c.shape, x.shape, strict=False)):
        raise ShapeError(
            f"A coefficient's shape must be a prefix of the state's, got {tuple(c.shape)} for {tuple(x.shape)}."
        )
    return c.to(device=x.device, dtype=x.dtype).reshape(c.shape + (1,) * (x.ndim - c.ndim))


def _pick(c: Coefficient, name: str) -> float | Tensor:
    return c[name] if isinstance(c, dict) else c


def _tensor(x: State) -> Tensor:
    if isinstance(x, dict):
        raise ShapeError(f"A tensor state meets a dict state with names {sorted(x)}.")
    return x


def _number(c: Coefficient) -> float | Tensor:
    if isinstance(c, dict):
        raise ShapeError(f"A tensor state needs one coefficient, got one for each of {sorted(c)}.")
    return c


def scale(c: Coefficient, x: State) -> State:
    """$c x$."""
    if isinstance(x, dict):
        return {name: v * expand(_pick(c, name), v) for name, v in x.items()}
    return x * expand(_number(c), x)


def add(x: State, c: Coefficient, v: State) -> State:
    """$x + c v$, one fused operation.

    Example:
        >>> add(torch.zeros(2, 3), torch.tensor([1.0, 2.0]), torch.ones(2, 3))[:, 0]
        tensor([1., 2.])
    """
    if isinstance(x, dict):
        return map_state_named(lambda name, a, b: add(a, _pick(c, name), b), x, v)
    v, c = _tensor(v), _number(c)
    if isinstance(c, Tensor):
        return torch.addcmul(x, v, cast(Tensor, expand(c, x)))
    return torch.add(x, v, alpha=c)


def affine(a: Coefficient, x: State, b: Coefficient, v: State) -> State:
    """$a x + b v$; a coefficient that is the float zero drops its term, so 0 · ∞ never spoils a limit.

    Args:
        a: Coefficient of x.
        x: A state.
        b: Coefficient of v.
        v: A state of the same shape.
    """
    if isinstance(x, dict):
        return map_state_named(lambda name, p, q: affine(_pick(a, name), p, _pick(b, name), q), x, v)
    if not isinstance(a, Tensor) and a == 0.0:
        return scale(b, v)
    if not isinstance(b, Tensor) and b == 0.0:
        return scale(a, x)
    if not isinstance(a, Tensor) and a == 1.0:
        return add(x, b, v)
    return add(scale(a, x), b, v)


def lerp(x: State, y: State, t: Coefficient) -> State:
    """$(1 - t) x + t y$, exact at both ends."""
    if isinstance(x, dict):
        return map_state_named(lambda name, a, b: lerp(a, b, _pick(t, name)), x, y)
    return torch.lerp(x, _tensor(y), expand(_number(t), x))


def flat_rows(v: Tensor) -> Tensor:
    """(B, -1): the numbers of each row side by side."""
    return v.flatten(1) if v.ndim > 1 else v.unsqueeze(1)


def tensors(x: State) -> list[Tensor]:
    """The tensors of a state."""
    return list(x.values()) if isinstance(x, dict) else [x]


def rows(x: State) -> int:
    """The batch size.

    Raises:
        ShapeError: If the tensors of a dict disagree, or a tensor has no batch axis.
    """
    if isinstance(x, Tensor) and x.ndim:
        return x.shape[0]
    sizes = {v.shape[0] if v.ndim else -1 for v in tensors(x)}
    if len(sizes) != 1 or -1 in sizes:
        raise ShapeError(f"A state has one batch size, got {sorted(sizes)}.")
    return sizes.pop()


def select(x: State, index: Tensor | slice) -> State:
    """The rows at `index` (integers, a mask, or a slice)."""
    return x[index] if isinstance(x, Tensor) else {name: v[index] for name, v in x.items()}


def split(x: State, sizes: Sequence[int]) -> list[State]:
    """Cut the rows into consecutive pieces of the given sizes; views, no copies."""
    if isinstance(x, Tensor):
        return list(torch.split(x, list(sizes)))
    pieces = {name: torch.split(v, list(sizes)) for name, v in x.items()}
    return [{name: p[i] for name, p in pieces.items()} for i in range(len(sizes))]


def concat(states: Sequence[State]) -> State:
    """Join states along the rows; inverse of `split`."""
    if len(states) == 1:
        return states[0]
    return map_state(lambda *parts: torch.cat(parts), *states)


def where_rows(mask: Tensor, x: State, y: State) -> State:
    """Rows of x where the mask (B,) holds, else rows of y."""
    return map_state(lambda a, b: torch.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), x, y)


def like(x: State, dtype: torch.dtype | None = None, device: torch.device | None = None) -> State:
    """Cast floating tensors of a state; integers keep their type."""
    return map_state(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None), x)


def dtype_of(x: State) -> torch.dtype:
    """The dtype of the (first) tensor."""
    return (x if isinstance(x, Tensor) else next(iter(x.values()))).dtype


def device_of(x: State) -> torch.device:
    """The device of the (first) tensor."""
    return (x if isinstance(x, Tensor) else next(iter(x.values()))).device


def is_finite(x: State) -> Tensor:
    """(B,) bool: whether every number of a row is finite."""
    flags = [flat_rows(v).isfinite().all(1) for v in tensors(x)]
    return flags[0] if len(flags) == 1 else torch.stack(flags).all(0)
