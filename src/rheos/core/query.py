"""What the sampling loop asks of a network, and how requests at different times share one call."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError
from rheos.core.paths import Kind, Time
from rheos.core.state import State, concat, device_of, rows, split

__all__ = ["Name", "Query", "Reply", "gather", "merge", "spread", "spread_query"]

Name = tuple[str | int, ...]


class Query(NamedTuple):
    """What the loop asks of a network.

    Args:
        x: State, rows first (all branches one after another).
        t: One clock for all rows (float), or float64 with a shape that is a prefix of x's.
        span: The interval being stepped over, (start, end).
        cond: Conditions, rows first.
        kind: What is asked: "velocity", "data", "noise", "score", or "average" over the span.
        branches: Names and row counts, in the order of the rows; empty for a single unnamed branch.
        memory: The field's own per-row state, or None.
        grad: Whether the answer must be differentiable.
        taps: Attention hooks.
        rows: Which rows of the flight are asked for, or None for all.
    """

    x: State
    t: Time
    span: tuple[Time, Time]
    cond: Cond
    kind: Kind = "velocity"
    branches: tuple[tuple[Name, int], ...] = ()
    memory: State | None = None
    grad: bool = False
    taps: tuple[Callable[..., Tensor], ...] = ()
    rows: Tensor | None = None


class Reply(NamedTuple):
    """A network's answer and its new per-row memory."""

    value: State
    memory: State | None = None


def merge(queries: Sequence[Query]) -> Query:
    """Many requests at different times of their flows, joined into one network call.

    Args:
        queries: At least one, from any solvers; the i-th one's branches get i in front of their names.

    Raises:
        OptionError: If they ask different kinds, or for different taps, gradients, conditions or shapes.
    """
    if not queries:
        raise OptionError("There is nothing to merge: give at least one query.")
    first = queries[0]
    if len(queries) == 1:
        return first
    same = _signature(first)
    for q in queries:
        if _signature(q) != same:
            raise OptionError(
                "Only queries of one kind, with the same taps, gradient mode, conditions and shapes, can merge: "
                f"{_signature(q)} meets {same}."
            )
    named = [
        q._replace(branches=tuple(((i, *name), n) for name, n in q.branches or (((), rows(q.x)),)), rows=None)
        for i, q in enumerate(queries)
    ]
    return gather(named)


def gather(queries: Sequence[Query]) -> Query:
    """The rows of several queries one after another, their branches as they are named; trusted to fit."""
    first = queries[0]
    if len(queries) == 1:
        return first
    sizes, device = [rows(q.x) for q in queries], device_of(first.x)
    return first._replace(
        x=concat([q.x for q in queries]),
        t=join_times([q.t for q in queries], sizes, device),
        span=(
            join_times([q.span[0] for q in queries], sizes, device),
            join_times([q.span[1] for q in queries], sizes, device),
        ),
        cond={name: torch.cat([q.cond[name] for q in queries]) for name in first.cond},
        branches=tuple(branch for q in queries for branch in q.branches),
        memory=None if first.memory is None else concat([q.memory for q in queries if q.memory is not None]),
    )


def _signature(q: Query) -> tuple[object, ...]:
    """What must agree for two queries to share a call."""
    x = {name: (tuple(v.shape[1:]), v.dtype) for name, v in (q.x.items() if isinstance(q.x, dict) else [("x", q.x)])}
    return q.kind, q.grad, q.taps, sorted(q.cond), x, _axes(q.t), q.memory is not None


def _axes(t: Time) -> object:
    """What row clocks have beside their rows: other variables, or further axes."""
    if isinstance(t, dict):
        return {name: _axes(v) for name, v in t.items()}
    return tuple(t.shape[1:]) if isinstance(t, Tensor) else ()


def spread(reply: Reply, queries: Sequence[Query]) -> list[Reply]:
    """Cut the reply to a merged query into the replies of its parts."""
    sizes = [rows(q.x) for q in queries]
    values = split(reply.value, sizes)
    memory: Sequence[State | None] = [None] * len(sizes) if reply.memory is None else split(reply.memory, sizes)
    return [Reply(v, m) for v, m in zip(values, memory, strict=True)]


def spread_query(q: Query) -> list[Query]:
    """One query a branch."""
    sizes = [n for _, n in q.branches]
    x, t = split(q.x, sizes), cut_time(q.t, sizes)
    start, end = cut_time(q.span[0], sizes), cut_time(q.span[1], sizes)
    cond = {name: torch.split(v, sizes) for name, v in q.cond.items()}
    memory: Sequence[State | None] = [None] * len(sizes) if q.memory is None else split(q.memory, sizes)
    return [
        q._replace(
            x=x[i],
            t=t[i],
            span=(start[i], end[i]),
            cond={n: v[i] for n, v in cond.items()},
            branches=(branch,),
            memory=memory[i],
        )
        for i, branch in enumerate(q.branches)
    ]


def cut_time(t: Time, sizes: list[int]) -> list[Time]:
    """Row clocks cut like the rows; a shared clock serves every part."""
    if isinstance(t, dict):
        parts = {n: cut_time(v, sizes) for n, v in t.items()}
        return [{n: cast(Tensor, p[i]) for n, p in parts.items()} for i in range(len(sizes))]
    if isinstance(t, Tensor) and t.ndim and t.shape[0] == sum(sizes):
        return list(torch.split(t, sizes))
    return [t] * len(sizes)


def join_times(times: Sequence[Time], sizes: Sequence[int], device: torch.device) -> Time:
    """One clock for all if they all agree on a float, else a clock a row."""
    first = times[0]
    if isinstance(first, dict):
        return {
            n: cast(Tensor, join_times([cast(dict[str, Tensor], t)[n] for t in times], sizes, device)) for n in first
        }
    if all(isinstance(t, float) and t == first for t in times):
        return first
    return torch.cat([_row_time(cast(Tensor, t), n, device) for t, n in zip(times, sizes, strict=True)])


def _row_time(t: float | Tensor, n: int, device: torch.device) -> Tensor:
    if isinstance(t, Tensor):
        return t.to(device).expand(n, *t.shape[1:])
    return torch.full((n,), t, dtype=torch.float64, device=device)
