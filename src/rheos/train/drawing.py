"""Samples of a run, obeying all that it was trained with: source, codec, embedder, states of several parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rheos.core.base import Source
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, check_choice
from rheos.core.solver import Solver
from rheos.data.recipe import EMBEDDING
from rheos.sample.draw import draw_solution
from rheos.sample.grids import Grid
from rheos.sample.guidance import CFG
from rheos.sample.solution import Solution
from rheos.train.beginnings import Begins, given, looked_at

if TYPE_CHECKING:
    from rheos.train.run import Run

__all__ = ["CAPTIONED", "Drawn", "begins_at", "columns", "draw_run", "needs", "told_of"]

CAPTION = "caption"
CAPTIONED = (EMBEDDING, f"{EMBEDDING}_mask")


@final
@dataclass(frozen=True)
class Drawn:
    """Samples of a run.

    Args:
        x: What the flow's ends stand for: pictures where it flows in latents or in pairs, else the ends themselves.
        solution: The ends, with seeds, grid and the count of network calls.
    """

    x: Tensor
    solution: Solution


def needs(run: "Run") -> frozenset[str]:
    """Columns that a sample of this run depends on: the network's conditions, and what says where it begins."""
    law = run.law
    return (run.field.conditions - frozenset(getattr(law, "provides", ()))) | frozenset(begins_at(law))


def begins_at(law: object) -> tuple[str, ...]:
    """Columns at which flows begin; none where they begin at noise."""
    if isinstance(law, Begins):
        return law.asks
    return law.consumes if isinstance(law, Source) and not law.noise else ()


def columns(run: "Run", cond: Mapping[str, Any], n: int) -> dict[str, Tensor]:
    """Columns as tensors of n rows; a caption, or one a row, becomes its embedding.

    Raises:
        ConditionError: For a caption where the data have no embedder, or another number of rows.
    """
    found: dict[str, Tensor] = {}
    for name, value in cond.items():
        if value is None:
            continue
        if name == CAPTION:
            texts = [value] if isinstance(value, str) else list(value)
            found |= _captions(run, texts * n if len(texts) == 1 else texts)
        else:
            v = torch.as_tensor(_numbers(run, value) if name == "label" else value)
            found[name] = v.expand(n, *v.shape[1:]) if v.ndim == 0 or (len(v) == 1 and n > 1) else v
    for name, v in found.items():
        if len(v) != n:
            raise ConditionError(f"{name} has {len(v)} rows for {n} samples; give one value, or one a sample.")
    return {name: v.to(run.field.device) for name, v in found.items()}


def _numbers(run: "Run", label: Any) -> Any:
    """Class numbers of names; numbers stay."""
    names = list(run.config["data"]["class_names"])
    several = [label] if isinstance(label, str) else label
    if not isinstance(several, list | tuple) or not any(isinstance(k, str) for k in several):
        return label
    for k in several:
        check_choice("label", k, names)
    return [names.index(k) for k in several]


def _captions(run: "Run", texts: list[str]) -> dict[str, Tensor]:
    from rheos.data.embedding import embedder

    if run.prompted is not None:
        return dict(run.prompted.encode_prompt(texts, run.field.shape))
    name = run.origin.get("embed")
    if name is None:
        raise ConditionError(
            "This flow knows no captions: its data were not loaded with embed=..., and there is no pipeline around its "
            "network that reads prompts (rheos.adapters.surround puts one there)."
        )
    found = embedder(name)(texts)
    values, mask = found if isinstance(found, tuple) else (found, None)
    if mask is None or f"{EMBEDDING}_mask" not in needs(run):  # a flow may be trained without
        return {EMBEDDING: values}
    return {EMBEDDING: values, f"{EMBEDDING}_mask": mask}


def draw_run(
    run: "Run",
    n: int = 16,
    cond: Mapping[str, Any] | None = None,
    *,
    steps: int | Sequence[float] | Grid | None = None,
    solver: Solver | str | None = None,
    guidance: float | CFG | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    temperature: float = 1.0,
    batch: int | None = None,
) -> Drawn:
    """Draw samples of a run.

    Args:
        run: The run.
        n: How many.
        cond: Columns of the data by name, one value or one a row: "label", "mask", ...; "caption" is text.
        steps: As in `sample.draw`, like the other options; those of `run.sampling` unless given.
        solver: A name or a `Solver`; that of `run.sampling` unless given.
        guidance: Scale of classifier-free guidance.
        seed: One integer for all, or one a row.
        temperature: What the noise at the start is multiplied by: below 1 samples are closer to what is typical (0 is
            nearly one sample a condition), at the price of variety.
        batch: Rows at a time.

    Raises:
        ConditionError: For columns that the flow does not know, or lacks.
        OptionError: For guidance of a flow that has no null branch.
    """
    run.check_guidance(2.0 if isinstance(guidance, CFG) else guidance)
    told, way = told_of(run, n, cond or {}, seed, temperature), run.sampling
    steps, solver = way.steps if steps is None else steps, way.solver if solver is None else solver
    solution = draw_solution(
        run.field, n, steps=steps, solver=solver, guidance=guidance, seed=seed, batch=batch, **told
    )
    return Drawn(run.decode(looked_at(run.law, run.field, solution.x)), solution)


def told_of(
    run: "Run",
    n: int,
    cond: Mapping[str, Any],
    seed: int | Sequence[int] | Tensor = 0,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """What `sample.draw` is told of n rows: conditions, and where flows begin if not at fresh noise.

    Args:
        run: The run.
        n: How many.
        cond: Columns of the data, as in `draw_run`.
        seed: Of encoded or random starts: one integer for all, or one a row.
        temperature: Of these starts.
    """
    field, law = run.field, run.law
    if missing := [name for name in begins_at(law) if name not in cond and not (name in CAPTIONED and CAPTION in cond)]:
        raise ConditionError(
            f"Flows of this run begin at {', '.join(missing)}, so every sample needs it: "
            f"run.draw(n, {'caption=...' if missing[0] in CAPTIONED else f'{missing[0]}=...'})."
        )
    if field.shape is None:
        raise ConditionError("This run does not know the shape of its data.")
    like = torch.zeros(n, *field.shape, dtype=field.dtype, device=field.device)
    draws = Draws(row_seeds(seed, n).to(field.device))
    return given(law, field, like, columns(run, cond, n), draws, temperature)
