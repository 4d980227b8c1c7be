r"""2-Rectified Flow++: one round of reflow, trained well.

Pairs (noise, sample) of a teacher hardly cross, so one reflow makes paths nearly straight, if it is trained where it is
wrong and for what is seen: times in a U-shape, a pseudo-Huber norm of the velocity near the data, and a perceptual
distance of the data estimate,

$$ t\,h(v - u) + \frac{1}{1-t}\,\mathrm{perceptual}(x_t + (1-t)\,v,\; x_1), \qquad u = x_1 - x_0. $$

The student begins as the teacher itself, re-timed to the linear path. Pairs of real data, by inversion, may join.

Reference: Improving the Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor

from rheos.core.base import Coupling, Premetric, Source
from rheos.core.couplings import GivenPairs
from rheos.core.errors import OptionError, RheosError, check_choice
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.paths import AffinePath
from rheos.core.premetrics import MSE, RMSE, PseudoHuber, Timed, Total
from rheos.core.schedules import Linear
from rheos.core.time_laws import UShape
from rheos.data.dataset import Data
from rheos.distill.chunks import shares, whole
from rheos.distill.inherited import field_of, inheriting, names_of
from rheos.distill.inverted import MixedPairs, invert_pairs
from rheos.distill.kit import Known, check_original, guidance_of, known, whose, workplace
from rheos.distill.pairs import Recipe, generate
from rheos.distill.retimed import on_line, retimed
from rheos.distill.store import PairStore
from rheos.metrics.perceptual import check_pictures, perceptual, usual_features
from rheos.show import progress_bar
from rheos.train import Options, Run, fit

__all__ = ["Rectification", "heun_steps", "rfpp"]

LOSSES = ("auto", "perceptual-huber", "perceptual", "lpips-huber", "lpips", "huber", "l2", "l2_squared")
SEEN = 1_000_003
"""Added to the seed of pairs, so that `draw` with the run's own seed begins with noise that training never saw."""


@final
@dataclass(frozen=True)
class Rectification:
    r"""What is minimised, and how often.

    Args:
        loss: Of the velocity: "huber", "l2" (a root mean square) or "l2_squared"; of the data estimate: "perceptual" or
            "lpips"; both: "perceptual-huber" or "lpips-huber". "auto" is "perceptual-huber" for pictures with one or
            three channels, else "huber".
        features: What looks at pictures: "lpips", "digits", "mnist5k", "emoji", or your own function; unless given,
            LPIPS where it is installed and fits, else one of our nets.
        inverse: Whether the perceptual distance is divided by 1 - t.
        huber: c of the pseudo-Huber norm for one element; of a row of d elements it is c d.
        a: Steepness of the U-shape of times; 0: uniform.
        clip: Distance that times keep from 0 and 1.
        rounds: Reflows; the method is one, more are for comparison.
        finetune: Steps with real pairs; a tenth of the others unless given.

    Raises:
        UnknownOptionError: For an unknown loss.
        OptionError: For numbers out of range, or features with a loss that looks at none.

    Example:
        >>> Rectification(loss="huber").premetric((2,), None)
        PseudoHuber(c=0.00054, per_element=True)
    """

    loss: str = "auto"
    features: str | Callable[[Tensor], Tensor | Sequence[Tensor]] | None = None
    inverse: bool = True
    huber: float = 0.00054
    a: float = 4.0
    clip: float = 1e-5
    rounds: int = 1
    finetune: int | None = None

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        if self.rounds < 1 or (self.finetune is not None and self.finetune < 1):
            raise OptionError(f"rounds and finetune must be at least 1, got {self.rounds} and {self.finetune}.")
        if not 0 <= self.a < 700:
            raise OptionError(f"a must lie in [0, 700), got {self.a}; 0 is uniform.")
        if not 0 <= self.clip < 0.5 or (self.inverse and self._looks and self.clip < 1e-7):
            raise OptionError(
                f"clip must lie in [1e-7, 0.5) where a loss is divided by 1 - t, else in [0, 0.5), got {self.clip}."
            )
        if self.features is not None and not self._looks:
            raise OptionError(f"The loss {self.loss!r} looks at no features. Use 'perceptual-huber'.")
        if self.loss.startswith("lpips") and self.features not in (None, "lpips"):
            raise OptionError(f"The loss {self.loss!r} has its own features. Use 'perceptual' with features=....")

    @property
    def _looks(self) -> bool:
        return self.loss == "auto" or self.loss.startswith(("perceptual", "lpips"))

    @property
    def times(self) -> UShape:
        """The law of times; a U-shape as flat as can be where a is 0."""
        return UShape(max(self.a, 1e-6), self.clip)

    def premetric(self, shape: tuple[int, ...], value_range: tuple[float, float] | None) -> Premetric:
        """The premetric for samples of a shape and a range.

        Raises:
            ShapeError: For a perceptual loss of what is no picture, or too small for LPIPS; it says what remains.
            OptionError: For a perceptual loss of samples without a range of values.
        """
        norm = PseudoHuber(self.huber, per_element=True)
        loss = self.loss
        if loss == "auto":
            looks = self.features is not None or (value_range == (-1.0, 1.0) and len(shape) == 3 and shape[0] in (1, 3))
            loss = "perceptual-huber" if looks else "huber"
        if loss in ("huber", "l2", "l2_squared"):
            return {"huber": norm, "l2": RMSE(), "l2_squared": MSE()}[loss]
        seen: Premetric = self._perceptual(shape, value_range)
        if self.inverse:
            seen = Timed(seen, noise=-1.0)
        return seen if loss in ("perceptual", "lpips") else Total((Timed(norm, data=1.0), seen))

    def _perceptual(self, shape: tuple[int, ...], value_range: tuple[float, float] | None) -> Premetric:
        features = "lpips" if self.loss.startswith("lpips") else self.features
        if features == "lpips":
            check_pictures((1, *shape))
        if value_range is None and (features is None or isinstance(features, str)):
            raise OptionError(
                "A perceptual loss looks at pictures, and these samples have no range of values, like latents. Use the "
                "loss 'huber' or 'l2', or features=... of your own."
            )
        return perceptual(usual_features(shape) if features is None else features, value_range or (-1.0, 1.0))

    def objective(
        self,
        source: Source,
        shape: tuple[int, ...],
        value_range: tuple[float, float] | None,
        coupling: Coupling | None = None,
    ) -> FlowMatching:
        """Flow matching on given pairs under this loss."""
        return FlowMatching(
            coupling=coupling or GivenPairs(),
            source=source,
            times=self.times,
            premetric=self.premetric(shape, value_range),
            loss_on="velocity",
            dropout=0.0,
        )


def heun_steps(evaluations: int) -> int:
    """Steps of "heun-edm", or of `NewUpdate(heun=True)`, that cost so many network calls: 2 a step, 1 the last.

    Raises:
        OptionError: For an even number, which no number of steps costs.

    Example:
        >>> heun_steps(35)
        18
    """
    if evaluations < 1 or evaluations % 2 == 0:
        raise OptionError(
            f"Heun takes 2 evaluations a step and 1 in the last, so an odd number in all, got {evaluations}. "
            f"Use {max(evaluations - 1, 1)} or {evaluations + 1}."
        )
    return (evaluations + 1) // 2


def rfpp(
    teacher: Run | Field,
    data: Data | None = None,
    *,
    out: str | Path | None = None,
    pairs: PairStore | Data | str | Path | int = 10_000,
    steps: int = 2000,
    evaluations: int = 35,
    real_fraction: float = 0.0,
    how: Rectification | None = None,
    student: Field | None = None,
    options: Options | None = None,
    progress: bool | None = None,
) -> Run:
    """Straighten a flow, so that one or two network calls make a sample.

    Everything below `out` is continued after an interruption: `pairs` (the teacher's), `flow` (the student's run), and
    with real data `real` (pairs by inversion) and `tuned` (the run that is returned).

    Args:
        teacher: A trained flow or diffusion model on an affine path.
        data: Real samples, for `real_fraction`; the run's own unless given.
        out: A folder; None: a temporary one, of which only the run in memory remains.
        pairs: How many to draw, plain and with balanced labels; or a store, its folder, or a data set that delivers
            "x0" (`given_pairs`). Pairs with guidance or of captions are made by `generate(teacher, folder, n, cond=...,
            recipe=Recipe(guidance=...))`; the student then holds the guidance.
        steps: Optimiser steps on the teacher's pairs.
        evaluations: Network calls of the teacher a pair, odd (EDM's Heun); with real data also of the inversion.
        real_fraction: Share of real pairs in the batches of a fine-tuning with a tenth of the learning rate, in [0, 1].
        how: Loss, times, rounds.
        student: Where to begin instead of the re-timed teacher, on the linear path.
        options: Of training; Adam at 5e-4 unless given.
        progress: Whether bars are drawn; None: on terminals.

    Returns:
        The run of the straightened flow.

    Raises:
        OptionError: For a teacher without an affine path, an even budget, a fraction outside [0, 1] or without data,
            or several rounds with given pairs, or a teacher that was itself made for few steps.
        DataError: For pairs of another teacher.
        RheosError: As `generate`, `invert_pairs` and `train.fit`.
    """
    how, options = how or Rectification(), options or usual_options()
    field = teacher.field if isinstance(teacher, Run) else teacher
    check_original(field_of(teacher))
    start = _student(field, student)
    pairs = PairStore(pairs) if isinstance(pairs, str | Path) else pairs
    baked = guidance_of(pairs) if isinstance(pairs, PairStore) else 1.0
    start.baked = field.baked if baked == 1.0 else baked
    heun_steps(evaluations)
    if not 0 <= real_fraction <= 1:
        raise OptionError(f"real_fraction must lie in [0, 1], got {real_fraction}.")
    if not isinstance(pairs, int) and how.rounds > 1:
        raise OptionError("Given pairs are those of the first round; with rounds above 1 say how many to draw.")
    real = _real(teacher, data) if real_fraction else None
    with workplace(out) as folder:
        names = data.class_names if data is not None else names_of(teacher)
        work = _Work(folder, out is not None, how, options, evaluations, names, teacher, progress)
        field, run = on_line(field), None
        for k in range(1, how.rounds + 1):
            have = work.drawn(field, pairs, k) if isinstance(pairs, int) else _known(pairs, teacher)
            objective = how.objective(have[1], have[0].shape, have[0].delivers)
            run = work.fit(start, objective, have[0], steps, "flow" if k == 1 else f"flow-{k}")
            field, start = run.field, retimed(run.field)
            start.baked = field.baked
        assert run is not None
        if real is None:
            return run
        objective = work.mixed(on_line(field_of(teacher)), real, real_fraction, have)
        return work.fit(start, objective, have[0], how.finetune or max(steps // 10, 1), "tuned", slower=10.0)


def usual_options() -> Options:
    """Adam as in the paper, with a rate for runs of some thousand steps."""
    return Options(optimiser="adam", betas=(0.9, 0.999), lr=5e-4)


@final
@dataclass(frozen=True)
class _Work:
    """A call of `rfpp` under way."""

    folder: Path
    kept: bool
    how: Rectification
    options: Options
    evaluations: int
    class_names: tuple[str, ...]
    teacher: Run | Field
    progress: bool | None

    def drawn(self, field: Field, n: int, k: int) -> tuple[Data, Source]:
        """Pairs of a field, and what reads their noise."""
        recipe = Recipe(
            steps=heun_steps(self.evaluations), solver="heun-edm", noise="seed", seed=self.options.seed + SEEN * k
        )
        name = "pairs" if k == 1 else f"pairs-{k}"
        shard = shares() if self.kept else (0, 1)
        with progress_bar(name, n, self.progress) as advance:
            store = generate(
                field, self.folder / name, n, recipe=recipe, class_names=self.class_names, shard=shard, progress=advance
            )
        store = whole(store.inherits(self.teacher, shard))
        return store.data(), store.source

    def mixed(self, field: Field, real: Data, fraction: float, known: tuple[Data, Source]) -> FlowMatching:
        """The objective on batches with real pairs in them."""
        recipe = Recipe(steps=heun_steps(self.evaluations), solver="heun")
        shard = shares() if self.kept else (0, 1)
        with progress_bar("real pairs", len(real), self.progress) as advance:
            store = invert_pairs(field, real, self.folder / "real", recipe=recipe, shard=shard, progress=advance)
        whole(store)
        coupling = MixedPairs(str(store.folder), fraction)
        return self.how.objective(known[1], known[0].shape, known[0].delivers, coupling)

    def fit(self, field: Field, objective: FlowMatching, data: Data, steps: int, name: str, slower: float = 1.0) -> Run:
        """Train, or go on with training."""
        options = replace(self.options, lr=self.options.lr / slower)
        out = self.folder / name if self.kept else None
        return fit(
            field, objective, data, steps=steps, out=out, options=options, resume=self.kept, progress=self.progress
        )


def _student(field: Field, student: Field | None) -> Field:
    if student is None:
        return retimed(field)
    retimed(field)  # the teacher's path is checked
    if not isinstance(student.path, AffinePath) or student.path.law != Linear():
        raise OptionError(f"The student must live on the linear path, got {student.path}.")
    return student


def _real(teacher: Run | Field, data: Data | None) -> Data:
    if data is not None:
        return data
    if isinstance(teacher, Run):
        try:
            return teacher.data()
        except RheosError as error:
            raise OptionError(f"The run's own data cannot be read again ({error}). Give them: data=....") from error
    raise OptionError("real_fraction needs real data, and a field does not know any. Give them: data=....")


def _known(pairs: PairStore | Data, teacher: Run | Field) -> Known:
    """Given pairs, and what reads their noise, after a look at whose they are."""
    if isinstance(pairs, Data):
        data, source = known(pairs)
        return inheriting(data, teacher), source
    data, source = known(pairs.inheriting(teacher))
    field = field_of(teacher)
    whose(pairs, field, on_line(field), field.on("linear"))
    return data, source
