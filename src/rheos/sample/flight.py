"""A batch of samples under way: plain data that can be joined, split, saved and loaded.

Several flights at the same stage of the same method become one, whatever their grids: a clock that all rows shared
becomes a clock a row, and rows that reach their end early stay where they are. Flights at different stages, or of
different methods, share a network call by merging their queries instead (`rheos.core.merge`).
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import CheckpointError, OptionError, RunError, ShapeError
from rheos.core.query import Name
from rheos.core.solver import DONE, SolverState
from rheos.core.state import State, device_of, rows

__all__ = ["Flight", "Times", "join", "load", "save", "split"]

Times = tuple[float, ...] | Tensor
FORMAT = "rheos.flight.1"


class Flight(NamedTuple):
    """A batch of samples under way.

    Args:
        times: The grid: floats on one shared clock, or float64 (B, N + 1), a row's own (repeating its last).
        i: The interval: an integer, or int64 (B,).
        n: The number of intervals, likewise.
        round: Which repeat of the interval.
        solver: The solver's state.
        steer: Each steer's numbers and memory.
        cond: Conditions, rows first.
        seed: int64 (B,), a seed a row.
        memory: The field's memory by branch.
        pending: Memory that is committed when the interval is accepted.
        anchor: The solver's state at the start of the interval, kept where a hook needs it.
    """

    times: Times
    i: int | Tensor
    n: int | Tensor
    round: int
    solver: SolverState
    steer: tuple[dict[str, Any], ...]
    cond: Cond
    seed: Tensor
    memory: dict[Name, State]
    pending: dict[Name, State]
    anchor: SolverState | None = None

    @property
    def x(self) -> State:
        """The state, rows first."""
        return cast(State, self.solver["x"])

    @property
    def finished(self) -> bool:
        """Whether every row has reached its end."""
        if isinstance(self.i, Tensor):
            return bool((self.i >= self.n).all())
        return self.i >= cast(int, self.n)


def join(flights: Sequence[Flight]) -> Flight:
    """One flight of all rows, in order.

    A shared clock stays if the flights agree on it; otherwise every row gets its own. Numbers of steers that differ
    become one a row.

    Args:
        flights: At least one, begun by equal loops and at the same stage of an interval.

    Raises:
        OptionError: If they are at different stages or of different methods.
        ShapeError: If their rows have different shapes.

    Example:
        >>> import rheos.core as core
        >>> field = core.GaussianMixtureField([[1.0, 2.0]], [0.5])
        >>> from rheos.sample import Euler, Loop, drive
        >>> loop, x = Loop(field, Euler()), torch.zeros(1, 2)
        >>> slow = loop.begin(x, (0.0, 0.25, 0.5, 1.0), {}, torch.tensor([0]))
        >>> fast = loop.begin(x, (0.0, 1.0), {}, torch.tensor([1]))
        >>> both, _ = drive(loop, field, join([slow, fast]))
        >>> torch.allclose(both.x[1:], drive(loop, field, fast)[0].x)
        True
    """
    if not flights:
        raise OptionError("There is nothing to join: give at least one flight.")
    first = flights[0]
    if len(flights) == 1:
        return first
    sizes, device = [rows(f.x) for f in flights], device_of(first.x)
    shared = all(_clock(f) is not None and _clock(f) == _clock(first) for f in flights)

    def position(values: list[int | Tensor]) -> int | Tensor:
        if shared:
            return values[0]
        return torch.cat([torch.as_tensor(v, device=device).expand(b) for v, b in zip(values, sizes, strict=True)])

    def merged(name: str, promote: bool = False) -> Any:
        return _joined(name, [getattr(f, name) for f in flights], sizes, promote)

    return Flight(
        times=first.times if shared else _row_grids([f.times for f in flights], sizes, device),
        i=position([f.i for f in flights]),
        n=position([f.n for f in flights]),
        round=merged("round"),
        solver=merged("solver", not shared),
        steer=merged("steer"),
        cond=merged("cond"),
        seed=merged("seed"),
        memory=merged("memory"),
        pending=merged("pending"),
        anchor=merged("anchor", not shared),
    )


def _clock(f: Flight) -> tuple[object, ...] | None:
    """Grid and position on it, where all rows share them."""
    return (f.times, f.i, f.n) if isinstance(f.times, tuple) else None


def _row_grids(grids: Sequence[Times], sizes: Sequence[int], device: torch.device) -> Tensor:
    """(B, N + 1), short grids repeating their last time."""
    length = max(len(g) if isinstance(g, tuple) else g.shape[1] for g in grids)
    out = []
    for grid, b in zip(grids, sizes, strict=True):
        g = torch.tensor([grid], dtype=torch.float64, device=device) if isinstance(grid, tuple) else grid
        out.append(torch.cat((g, g[:, -1:].expand(-1, length - g.shape[1])), 1).expand(b, -1))
    return torch.cat(out)


def _joined(where: str, values: list[Any], sizes: Sequence[int], promote: bool) -> Any:
    """One value of several, structure by structure; `promote` makes every float one a row."""
    first = values[0]
    if isinstance(first, dict) and all(isinstance(v, dict) and v.keys() == first.keys() for v in values):
        return {k: _joined(f"{where}.{k}", [v[k] for v in values], sizes, promote) for k in first}
    if isinstance(first, tuple) and all(isinstance(v, tuple) and len(v) == len(first) for v in values):
        return tuple(_joined(f"{where}.{k}", [v[k] for v in values], sizes, promote) for k in range(len(first)))
    if all(isinstance(v, float | Tensor) for v in values):
        if not promote and all(isinstance(v, float) and v == first for v in values):
            return first
        return _rows_of(where, values, sizes)
    if all(type(v) is type(first) and v == first for v in values):  # None, an integer, a name
        return first
    raise OptionError(
        f"Flights at different stages, or of different methods, cannot be joined: they differ in {where}. "
        "Merge their queries instead: rheos.core.merge.",
        where=where,
    )


def _rows_of(where: str, values: list[float | Tensor], sizes: Sequence[int]) -> Tensor:
    """Row tensors one after another; a single number is repeated for its rows."""
    device = next((v.device for v in values if isinstance(v, Tensor)), None)
    parts = []
    for v, b in zip(values, sizes, strict=True):
        if not isinstance(v, Tensor):
            v = torch.tensor(v, dtype=torch.float64, device=device)
        parts.append(v.expand(b) if v.ndim == 0 else v)
        if len(parts[-1]) != b or parts[-1].shape[1:] != parts[0].shape[1:]:
            shapes = ", ".join(str(tuple(p.shape)) for p in parts)
            raise ShapeError(f"Flights of {list(sizes)} rows cannot be joined: {where} has the shapes {shapes}.")
    return torch.cat(parts)


def split(flight: Flight, pieces: Sequence[int] | Sequence[Tensor]) -> list[Flight]:
    """Cut a flight into several; the inverse of `join`.

    Args:
        flight: Any flight, also in the middle of an interval.
        pieces: Sizes of consecutive pieces, or for each piece the int64 indices of its rows.

    Raises:
        ShapeError: If sizes do not add up to the rows.
    """
    total = rows(flight.x)
    index: list[slice | Tensor] = []
    if pieces and all(isinstance(p, Tensor) for p in pieces):
        index = [cast(Tensor, p).to(flight.seed.device) for p in pieces]
    else:
        sizes = [int(cast(int, p)) for p in pieces]
        if sum(sizes) != total or min(sizes, default=0) < 1:
            raise ShapeError(f"The pieces {sizes} do not add up to the {total} rows of this flight.")
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        index = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return [_cut(flight, rows_, total) for rows_ in index]


def _cut(f: Flight, index: slice | Tensor, total: int) -> Flight:
    def pick(v: Tensor) -> Tensor:
        return v[index] if v.ndim and v.shape[0] == total else v

    part = cast(Flight, _mapped(f, pick))
    if isinstance(part.i, Tensor) and part.finished:  # its mates were still under way
        part = part._replace(solver={**part.solver, "stage": DONE})
    return part


def _mapped(value: Any, f: Callable[[Tensor], Any]) -> Any:
    """A function of every tensor of nested data."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, dict):
        return {k: _mapped(v, f) for k, v in value.items()}
    if isinstance(value, Flight):
        return Flight(*(_mapped(v, f) for v in value))
    return tuple(_mapped(v, f) for v in value) if isinstance(value, tuple) else value


def save(path: str | os.PathLike[str], flight: Flight) -> None:
    """Write a flight to a safetensors file, whole or not at all.

    Args:
        path: The file; it is replaced.
        flight: Any flight.

    Raises:
        OptionError: If a steer remembers something that is not plain data.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    tree = _encode("flight", tuple(flight), tensors)
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"format": FORMAT, "tree": json.dumps(tree)})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Flight:
    """Read a flight that `save` wrote.

    Args:
        path: The file.
        device: Where its tensors go.

    Raises:
        RunError: If there is no such file.
        CheckpointError: If it is truncated, or not a flight.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise RunError(f"There is no flight at {path}.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a flight: its format is {about.get('format')!r}, not {FORMAT!r}.")
            names = file.keys()
            return Flight(*_decode(json.loads(about["tree"]), {name: file.get_tensor(name) for name in names}))
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is truncated or damaged, it cannot be read as a flight: {error}.") from error


def _encode(where: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Nested plain data as JSON; tensors are put aside under a number."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(f"{where}.{k}", v, tensors) for k, v in enumerate(value)]}
    if isinstance(value, dict):
        return {"dict": [[_encode(where, k, tensors), _encode(f"{where}.{k}", v, tensors)] for k, v in value.items()]}
    raise OptionError(f"A flight holds plain data only, but {where} is a {type(value).__name__}.", where=where)


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "float":
        return float.fromhex(value)
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value}
    return tuple(_decode(v, tensors) for v in value)
