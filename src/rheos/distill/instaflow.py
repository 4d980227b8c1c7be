r"""InstaFlow: a guided diffusion model or flow becomes a one-step generator by plain supervised training.

1. *Triplets* (condition, noise, sample) of the teacher under guidance.
2. *Reflow*, once or more: $\min_v E \lVert (x_1 - x_0) - v(x_t, t \mid c) \rVert^2$ on the triplets, from the weights
   of the teacher.
3. *Distillation* of the straightened flow: $\min_v E\,D(x_1,\; x_0 + v(x_0, 0 \mid c))$ on its own triplets, made with
   a smaller guidance $v^a = a\,v(\cdot \mid c) + (1-a)\,v(\cdot \mid \varnothing)$; first $D$ = L2, then briefly a
   perceptual distance. The guidance is inside the student, which is called once.

Distilling the curved teacher directly asks a network for a map that it cannot learn as well; the reflow makes it easy.

Reference: InstaFlow, Liu et al. (2024), https://arxiv.org/abs/2309.06380. Its training code was never released.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, final

from torch import Tensor

from rheos.core.base import Cond, Premetric
from rheos.core.errors import OptionError, check_choice
from rheos.core.field import Field
from rheos.distill.chunks import shares, whole
from rheos.distill.distillation import distil, seen, usual_options
from rheos.distill.inherited import names_of
from rheos.distill.kit import check_teacher, drawn, same_teacher, start_of, workplace
from rheos.distill.pairs import Recipe
from rheos.distill.reflow import reflow
from rheos.distill.retimed import retimed
from rheos.distill.segments import SegmentRecipe, SegmentStore, generate_segments
from rheos.distill.store import PairStore
from rheos.distill.students import StackedVelocity
from rheos.distill.teacher import field_of
from rheos.show import progress_bar
from rheos.train import Options, Run

__all__ = ["Stages", "instaflow"]

SEEN = 1_000_003
"""Between the seeds of the stages' pairs, and of what a user draws."""


@final
@dataclass(frozen=True)
class Stages:
    """The pipeline, stage by stage.

    Args:
        pairs: Triplets of each stage.
        rounds: Reflows; 0 distils the teacher itself, for comparison.
        steps: Optimiser steps of a reflow.
        distil: Steps of the distillation under L2.
        polish: Steps of the second distillation, under `loss`; 0 leaves it out.
        loss: Of the second distillation: "auto" (LPIPS, or features of one of our nets; left out for what is no
            picture), "lpips", "digits", "mnist5k", "emoji", a name of `core.premetrics`, or a premetric.
        evaluations: K, the student's network calls.
        targets: With K above 1: "line", the student learns at points of the line between noise and sample, or "chord",
            on segments of the flow's own paths.
        guidance: Of the teacher's triplets; 5 for text and 3 for labels unless given, 1 without conditions.
        again: Of the straightened flow's triplets; 1.5 unless given, 1 without conditions.
        dropout: Share of rows without condition in a reflow, so that its flow can be guided.
        teacher: How the teacher is sampled; its guidance is replaced by `guidance`.
        straight: How a straightened flow is sampled; likewise by `again`.
        begin: Off the linear path: "raw", the teacher's output is from now on a velocity (as in the paper), or
            "retimed", the teacher's own flow on the linear path.
        stacked: Whether the student is two networks in a row (`StackedVelocity`), both begun from the flow.

    Raises:
        OptionError: For numbers out of range.
        UnknownOptionError: For an unknown `begin`.
    """

    pairs: int = 10_000
    rounds: int = 1
    steps: int = 2000
    distil: int = 1000
    polish: int = 300
    loss: str | Premetric = "auto"
    evaluations: int = 1
    targets: Literal["line", "chord"] = "line"
    guidance: float | None = None
    again: float | None = None
    dropout: float = 0.1
    teacher: Recipe = field(default_factory=lambda: Recipe(steps=25, solver="dpm++2m"))
    straight: Recipe = field(default_factory=lambda: Recipe(steps=25, solver="euler"))
    begin: Literal["raw", "retimed"] = "raw"
    stacked: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("pairs", 1),
            ("rounds", 0),
            ("steps", 1),
            ("distil", 1),
            ("polish", 0),
            ("evaluations", 1),
        ):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must lie in [0, 1), got {self.dropout}.")
        check_choice("begin", self.begin, ("raw", "retimed"))
        check_choice("targets", self.targets, ("line", "chord"))
        if self.targets == "chord" and self.straight.steps % self.evaluations:
            raise OptionError(
                f"Chords of {self.evaluations} steps need a multiple of them in straight.steps, got "
                f"{self.straight.steps}."
            )

    def recipe(self, of: Field, k: int, seed: int) -> Recipe:
        """How the triplets of stage k, 0 being the teacher's, are drawn."""
        plain, scale = (self.teacher, self.guidance) if k == 0 else (self.straight, self.again)
        if scale is None:
            usual = (3.0 if of.conditions == {"label"} else 5.0) if k == 0 else 1.5
            scale = usual if of.conditions else 1.0
        return replace(plain, guidance=scale, seed=seed + SEEN * (k + 1))


def instaflow(
    teacher: Run | Field,
    cond: Cond | None = None,
    *,
    out: str | Path | None = None,
    how: Stages | None = None,
    pairs: PairStore | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Make a one-step generator of a flow or a diffusion model.

    Everything below `out` is continued after an interruption: `pairs-0` (the teacher's), `reflow-1`, `pairs-1`, ...,
    `distil` and `polish`, each a pair store or a run that can be read by itself.

    Args:
        teacher: A field or a run, on any affine path; `rheos.adapters.from_diffusers` makes one of a pipeline.
        cond: Its conditions, `how.pairs` rows, such as embedded prompts; labels are balanced unless given.
        out: A folder; None: a temporary one, of which only the run in memory remains.
        how: The stages.
        pairs: Triplets of the teacher that exist already; a few are drawn again, to be sure.
        decode: From latents to pictures in [-1, 1], for the perceptual stage.
        options: Of every training; Adam at 5e-4 unless given.
        progress: Whether bars are drawn; None: on terminals.

    Returns:
        The student's run: `draw(run.field, n)` takes its `how.evaluations` steps, without guidance.

    Raises:
        OptionError: For a teacher that seems to predict noise though a velocity was declared, or options out of range.
        ConditionError: If the network needs conditions that are not given.
        DataError: For pairs of another teacher.
        RheosError: As `generate` and `train.fit`.
    """
    how, options = how or Stages(), options or usual_options()
    flow = field_of(teacher)
    loss = seen(how.loss, flow.shape, flow.value_range, decode) if how.polish else None
    check_teacher(flow, cond)
    if pairs is not None:
        same_teacher(flow, pairs)
        pairs = pairs.inheriting(teacher)
    with workplace(out) as folder:
        work = _Work(folder, out is not None, how, options, cond, teacher, progress)
        for k in range(how.rounds):
            given = pairs if k == 0 and pairs is not None else work.triplets(flow, k)
            flow = work.straightened(flow, given, k)
        first = pairs if how.rounds == 0 and how.evaluations == 1 else None
        return work.student(flow, first or work.targets(flow), loss)


@final
@dataclass(frozen=True)
class _Work:
    """A call of `instaflow` under way."""

    folder: Path
    kept: bool
    how: Stages
    options: Options
    cond: Cond | None
    teacher: Run | Field
    progress: bool | None

    def _out(self, name: str) -> Path | None:
        return self.folder / name if self.kept else None

    def triplets(self, flow: Field, k: int) -> PairStore:
        """What stage k learns from: samples of the flow of k reflows."""
        recipe = self.how.recipe(flow, k, self.options.seed)
        return drawn(
            flow, self.folder / f"pairs-{k}", self.how.pairs, recipe, self.cond, self.teacher, self.progress, self.kept
        )

    def targets(self, flow: Field) -> PairStore | SegmentStore:
        """What the student learns from: samples of the last flow, or segments of its paths."""
        how, k = self.how, self.how.rounds
        if how.targets == "line" or how.evaluations == 1:
            return self.triplets(flow, k)
        plain = how.recipe(flow, k, self.options.seed)
        recipe = SegmentRecipe(plain.steps, plain.solver, plain.guidance, plain.seed, plain.chunk, plain.grid)
        fine = recipe.times(flow)
        times = fine[:: plain.steps // how.evaluations]
        shard = shares() if self.kept else (0, 1)
        with progress_bar("segments", how.pairs, self.progress) as advance:
            store = generate_segments(
                flow, self.folder / f"segments-{k}", how.pairs, times, recipe=recipe, cond=self.cond,
                class_names=names_of(self.teacher), shard=shard, progress=advance,
            )  # fmt: skip
        return whole(store.inherits(self.teacher, shard))

    def straightened(self, flow: Field, pairs: PairStore, k: int) -> Field:
        """Reflow k + 1."""
        how = self.how
        start = retimed(flow) if k == 0 and how.begin == "retimed" else flow
        return reflow(
            start, pairs, steps=how.steps, out=self._out(f"reflow-{k + 1}"),
            dropout=how.dropout if flow.conditions else 0.0, options=self.options, progress=self.progress,
        ).field  # fmt: skip

    def student(self, flow: Field, targets: PairStore | SegmentStore, loss: Premetric | None) -> Run:
        """Both distillations."""
        how = self.how
        start = start_of(flow)
        if how.stacked and start.bare:
            net = StackedVelocity(start.net)
            start = Field(net, start.path, start.predicts, baked=start.baked, **start.about)
        elif how.stacked:
            start.net = StackedVelocity(start.net)
        schedule = how.evaluations if isinstance(targets, PairStore) else 1

        def learn(start: Field, name: str, steps: int, loss: str | Premetric) -> Run:
            return distil(
                start, targets, steps=steps, out=self._out(name), schedule=schedule, loss=loss, options=self.options,
                progress=self.progress,
            )  # fmt: skip

        run = learn(start, "distil", how.distil, "mse")
        return run if loss is None else learn(run.field, "polish", how.polish, loss)
