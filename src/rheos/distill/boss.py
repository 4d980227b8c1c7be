r"""BOSS: the best K steps of a flow, and a short fine-tuning that makes Euler exact on them.

First the K steps are searched whose summed Euler errors on the flow's own fine trajectories are least (`bellman`;
nothing is trained). Then the teacher's fine trajectories are walked again and the flow is tuned to lead from
$x_{\tau_k}$ straight to $x_{\tau_{k+1}}$ (`chords`), so that its paths become straight piece by piece. No data are
needed.

Reference: Bellman Optimal Step-size Straightening of Flow-Matching Models, Nguyen et al. (2024),
https://arxiv.org/abs/2312.16414
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from rheos.core.base import Cond, Premetric
from rheos.core.errors import DataError, OptionError, ShapeError, check_choice
from rheos.core.field import Field
from rheos.core.premetrics import premetric
from rheos.distill.bellman import BellmanCosts, bellman_costs
from rheos.distill.bellman_search import BellmanSearch
from rheos.distill.chords import ChordMatching
from rheos.distill.chunks import shares, whole
from rheos.distill.fine import check_fine, nodes
from rheos.distill.kit import guidance_of, workplace
from rheos.distill.pairs import fingerprint
from rheos.distill.segments import Filter, SegmentRecipe, SegmentStore, generate_segments
from rheos.show import progress_bar
from rheos.train import Options, Run, fit

__all__ = ["Straightening", "boss", "searched_costs"]

GRIDS = ("bellman", "even", "line")
SEEN = 2_000_003
"""Added to the seed of the search, so that tuning, search and `draw` begin with different noise."""


@final
@dataclass(frozen=True)
class Straightening:
    """What `boss` does beside the optimiser's options.

    Args:
        rows: n, trajectories whose segments are learned; or a store of this teacher's, which holds them at all times
            that the steps may begin at (`generate_segments`): one walk then serves several K.
        search: Fine grid, its solver, guidance, and how steps are searched.
        grid: "bellman"; or a baseline: "even", evenly spaced anchors, or "line", K even steps along the straight lines
            from noise to sample (K-step distillation of reflow); or times of your own, all of them anchors, such as
            those of another model.
        lora: Rank of adapters, which alone are trained; 0 trains everything.
        loss: Name of a premetric of velocities, or a `Premetric`; perceptual ones compare the ends of segments.
        keep: Which trajectories are good enough to learn from; see `generate_segments`.

    Raises:
        OptionError: For rows below 1 or a negative rank.
        UnknownOptionError: For an unknown grid or loss.
    """

    rows: int | SegmentStore = 5000
    search: BellmanSearch = BellmanSearch()  # noqa: RUF009  # frozen
    grid: str | tuple[float, ...] = "bellman"
    lora: int = 0
    loss: str | Premetric = "mse"
    keep: Filter | None = None

    def __post_init__(self) -> None:
        if self.lora < 0 or (not isinstance(self.rows, SegmentStore) and self.rows < 1):
            raise OptionError(f"rows is at least 1 and lora at least 0, got {self.rows} and {self.lora}.")
        if isinstance(self.grid, str):
            check_choice("grid", self.grid, GRIDS)
        premetric(self.loss)

    @property
    def recipe(self) -> SegmentRecipe:
        """The fine trajectories that are learned from: those of the search, from other noise."""
        s = self.search
        return SegmentRecipe(s.anchors, s.solver, s.guidance, s.seed + SEEN, grid=s.grid)


def boss(
    teacher: Run | Field,
    evaluations: int,
    *,
    steps: int = 12_000,
    out: str | Path | None = None,
    how: Straightening | None = None,
    cond: Cond | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """The best K steps for this field, and the field for these steps.

    The run's field remembers its times: `draw(run.field, steps=evaluations)` takes K Euler steps on them, and other
    steps are refused, because it is undefined there. Everything in `out` is continued after an interruption:
    `costs.json`, `bellman.json` (the steps), `segments`, and the run itself.

    Args:
        teacher: A trained flow on any flat path.
        evaluations: K, network calls a sample.
        steps: Optimiser steps.
        out: Run directory; None: a temporary one for the segments, and only the run in memory remains.
        how: Rows, search, grid, adapters, loss.
        cond: Conditions with `how.rows` rows; labels are balanced when they are not given. A store has its own.
        options: Of `train.fit`; Adam at 2e-4 with batches of 15, as in the paper, unless given.
        progress: Whether bars are drawn; None: on terminals.

    Returns:
        The run of the straightened field.

    Raises:
        OptionError: For fewer than one evaluation or more than anchors, a stochastic or adaptive fine solver, a field
            that was straightened before, or adapters for a wrapped field.
        TimeError: For times of your own that are no anchors, or that a given store does not hold.
        DataError: For a store of another teacher or guidance.
        RunError: If `out` holds the work of another teacher or recipe.
        RheosError: As `train.fit`.

    Example:
        >>> import rheos
        >>> flow = Field(rheos.nets.MLP(2, hidden=8, depth=1), shape=(2,))
        >>> how = Straightening(rows=32, search=BellmanSearch(anchors=10, rows=8))
        >>> fast = boss(flow, evaluations=3, steps=2, how=how)
        >>> rheos.sample.draw(fast.field, 4, steps=3).shape
        torch.Size([4, 2])
    """
    how = how or Straightening()
    field = teacher.field if isinstance(teacher, Run) else teacher
    _check(field, evaluations, how)
    student = _student(field, how.lora)
    with workplace(out) as folder:
        shard = shares() if out is not None else (0, 1)
        times = _times(field, evaluations, how, folder, cond, shard[0] > 0, progress)
        if isinstance(how.rows, SegmentStore):
            store = how.rows.at(times)
        else:
            with progress_bar("segments", how.rows, progress) as advance:
                store = generate_segments(
                    teacher, folder / "segments", how.rows, times, recipe=how.recipe, cond=cond, keep=how.keep,
                    shard=shard, progress=advance,
                )  # fmt: skip
        store = whole(store).inheriting(teacher)
        objective = ChordMatching.of(store, evaluations if how.grid == "line" else 1, how.loss)
        return fit(
            student, objective, store.data(), steps=steps, out=folder if out is not None else None,
            options=options or usual_options(), resume=True, progress=progress,
        )  # fmt: skip


def usual_options() -> Options:
    """As in the paper."""
    return Options(batch=15, lr=2e-4, optimiser="adam", betas=(0.9, 0.999))


def searched_costs(
    field: Field,
    search: BellmanSearch,
    file: Path,
    *,
    cond: Cond | None = None,
    wait: bool = False,
    progress: bool | None = None,
) -> BellmanCosts:
    """The costs of a file if they are this field's and this search's, else measured and written there.

    Args:
        field: The flow.
        search: How.
        file: JSON of `BellmanCosts.save`.
        cond: Conditions, a row a trajectory.
        wait: Whether another process measures, so that this one waits for the file.
        progress: Whether a bar is drawn.
    """
    costs = _known(field, search, file)
    while costs is None and wait:
        time.sleep(0.2)
        costs = _known(field, search, file)
    if costs is not None:
        return costs
    with progress_bar("steps", search.rows, progress) as advance:
        costs = bellman_costs(field, search, cond=cond, progress=advance)
    costs.save(file)
    return costs


def _known(field: Field, search: BellmanSearch, file: Path) -> BellmanCosts | None:
    """What the file says, if it is of this field and this search."""
    if not file.exists():
        return None
    try:
        costs = BellmanCosts.load(file)
    except (DataError, ShapeError):  # damaged: measured again
        return None
    return costs if costs.teacher == fingerprint(field, {}) and costs.search == search else None


def _check(field: Field, evaluations: int, how: Straightening) -> None:
    """Refuse what cannot work before anything is walked."""
    if field.times is not None:
        raise OptionError(
            f"This field was straightened already, for {len(field.times) - 1} steps, and is undefined between them. "
            "Straighten the flow that it was made from."
        )
    check_fine(field, how.search.solver, how.search.guidance)
    if isinstance(how.rows, SegmentStore):
        _same(field, how.rows, how.search.guidance)
    anchors = len(how.search.times(field)) - 1
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or not 1 <= evaluations <= anchors:
        raise OptionError(
            f"evaluations must be a whole number from 1 to the {anchors} steps of the fine grid, got {evaluations!r}."
        )
    if not isinstance(how.grid, str) and len(nodes(how.grid, how.search.times(field))) != evaluations + 1:
        raise OptionError(f"{evaluations} evaluations need {evaluations + 1} times, got {len(how.grid)}.")


def _same(field: Field, store: SegmentStore, guidance: float) -> None:
    """Refuse trajectories of another flow."""
    had = guidance_of(store)
    if had != guidance:
        raise DataError(f"These segments were walked with guidance {had:g}, the search has {guidance:g}.")
    if store.complete and store.about["teacher"] != fingerprint(field, store.given):
        raise DataError(f"The segments in {store.folder} are not of this teacher. Walk them again: rows=5000.")


def _times(
    field: Field,
    evaluations: int,
    how: Straightening,
    folder: Path,
    cond: Cond | None,
    wait: bool,
    progress: bool | None,
) -> Sequence[float]:
    """The ends of the segments."""
    fine = how.search.times(field)
    if not isinstance(how.grid, str):
        return how.grid
    if how.grid == "line":
        return fine[0], fine[-1]
    if how.grid == "even":
        return [fine[round((len(fine) - 1) * k / evaluations)] for k in range(evaluations + 1)]
    some = {n: v[torch.arange(how.search.rows) % len(v)] for n, v in cond.items()} if cond else None
    costs = searched_costs(field, how.search, folder / "costs.json", cond=some, wait=wait, progress=progress)
    schedule = costs.best(evaluations)
    schedule.save(folder / "bellman.json")
    return schedule.times


def _student(field: Field, rank: int) -> Field:
    """A copy that trains, all of it or its adapters."""
    student = copy.deepcopy(field)
    student.shift = 1.0
    if not rank:
        return student.requires_grad_(True)
    if not student.bare:
        raise OptionError(f"Adapters are made for a plain Field, this one is a {type(student).__name__}. Use lora=0.")
    from rheos.nets.lora import LoRA

    adapted = LoRA(student.net, rank)
    return Field(
        adapted, student.path, student.predicts, gaussian=student.gaussian, shape=student.shape,
        value_range=student.value_range,
    )  # fmt: skip
