"""What the chapters of the tour share, and the order in which they are told."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.data import Data, load
from rheos.metrics.features import NAMES, features
from rheos.metrics.report import quality
from rheos.metrics.transport import sliced_wasserstein
from rheos.sample import CFG, Solution, draw_solution
from rheos.show import Page, beside, grid, png, save_png, upscale
from rheos.tour.table import quality_table
from rheos.train import Run
from rheos.train.checkpoint import newest, read_json

__all__ = ["CHAPTERS", "Tour", "TourOptions", "TourResult", "run_tour"]


@final
@dataclass(frozen=True)
class TourOptions:
    """Options of `rheos tour`.

    Args:
        data: mnist5k, another name of rheos.data.SOURCES, or your own folder of pictures.
        out: Where the run directories and report.html go; an unfinished tour there is continued.
        size: Side of the pictures in pixels; 16 for mnist5k, else 32.
        steps: Training steps.
        pairs: Pairs (noise, sample) that straightening learns from.
        reflow_steps: Training steps of straightening.
        distil_steps: Training steps of each of the two distillations that follow, to one step and to two.
        plane_steps: Training steps of each of the two flows in the plane.
        samples: Samples behind each line of the table of quality.
        guidance: Scale of classifier-free guidance, where the data have labels.
        captions: Training steps of a chapter on words that become pictures; 0 leaves it out.
        seed: Of everything.

    Raises:
        OptionError: For counts below 1.
    """

    data: str = "mnist5k"
    out: Path = Path("runs/tour")
    size: int | None = None
    steps: int = 900
    pairs: int = 3072
    reflow_steps: int = 300
    distil_steps: int = 250
    plane_steps: int = 1000
    samples: int = 1000
    guidance: float = 1.5
    captions: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "reflow_steps", "distil_steps", "plane_steps", "samples"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.captions < 0:
            raise OptionError(f"captions must be 0 (no such chapter) or positive, got {self.captions}.")


@final
@dataclass(frozen=True)
class TourResult:
    """What the tour leaves.

    Args:
        report: The page.
        rows: The table of quality, one mapping a line.
        seconds: Of the whole tour.
    """

    report: Path
    rows: tuple[dict[str, Any], ...]
    seconds: float


@dataclass
class Tour:
    """The state that chapters read and write.

    Args:
        options: As given.
        train: The rows that are learned.
        held_out: The rows that samples are compared with.
        page: The report.
        say: Shows a line to the person who waits.
        progress: Whether bars are drawn; None: on terminals.
        run: The trained flow, after the first chapter.
        fast: The straightened flow.
        rows: The table of quality.
        poster: Samples that one picture of the whole tour shows, by title.
    """

    options: TourOptions
    train: Data
    held_out: Data
    page: Page
    say: Callable[[str], None]
    progress: bool | None = None
    run: Run | None = None
    fast: Run | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    poster: dict[str, Tensor] = field(default_factory=dict)

    @property
    def guided(self) -> CFG | None:
        """The tour's guidance, where there are classes."""
        return CFG(self.options.guidance) if self.train.classes and self.options.guidance != 1 else None

    def seeded(self) -> AbstractContextManager[object]:
        """A block in which networks start from the tour's seed; torch's own state is left alone."""
        return _seeded(self.options.seed)

    def labels(self, n: int) -> dict[str, Tensor]:
        """Balanced labels for n samples, or none."""
        return {"label": torch.arange(n) % self.train.classes} if self.train.classes else {}

    def sample(self, flow: Field, n: int, steps: int, *, guided: bool = True, solver: str = "euler") -> Solution:
        """Samples of balanced classes, always from the same noise."""
        guidance = self.guided if guided else None
        labels: dict[str, Any] = self.labels(n)
        return draw_solution(
            flow, n, steps=steps, solver=solver, guidance=guidance, seed=self.options.seed + 1, batch=250, **labels
        )

    def picture(self, x: Tensor, columns: int = 10) -> bytes:
        """Samples as a sharp grid."""
        return png(upscale(grid(self.train.to_pictures(x), columns)))

    def few(self, name: str, run: Run, steps: int) -> None:
        """Measure a flow that needs no guidance in a few steps, and show samples of it."""
        solution = self.sample(run.field, self.options.samples, steps, guided=False)
        row, several = self.measure(name, run, solution, steps), "s" * (steps > 1)
        shown: Tensor = solution.x[:20]  # type: ignore[index]
        if steps == 1:
            self.poster[f"{name}, 1 step"] = shown
        calls = f"{row['evaluations']:g} network call{several} a sample"
        self.page.picture(
            self.picture(shown), f"{name.capitalize()}: {steps} step{several}, {calls}, same noise", sharp=True
        )

    def measure(self, name: str, run: Run, solution: Solution, steps: int) -> dict[str, Any]:
        """One line of the table of quality, against the held-out rows; `seconds` are those of training."""
        x, real = solution.x, self.held_out.batch(torch.arange(len(self.held_out))).x
        row: dict[str, Any] = {"flow": name, "steps": steps, "evaluations": solution.rows / len(x)}
        row["seconds"] = _spent(run)
        row["sliced_wasserstein"] = sliced_wasserstein(x, real)  # type: ignore[arg-type]
        own = self.train.name.split(":")[0] in NAMES
        net = self.train.name.split(":")[0] if own else ("emoji" if self.train.shape[0] == 3 else "mnist5k")
        label = self.labels(len(x)).get("label") if own else None
        least = min(len(x), len(real))
        groups, k = (20 if least >= 20 else 0), max(min(5, least - 1), 1)
        figures = quality(x, real, features(net), k=k, label=label, groups=groups)  # type: ignore[arg-type]
        row |= figures.to_dict()
        self.rows.append(row)
        return row


def _spent(run: Run) -> float:
    """Seconds of a run's training, before and after interruptions together."""
    folder = newest(run.path) if run.path is not None else None
    return float(read_json(folder / "state.json")["seconds"]) if folder is not None else 0.0


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def chapters() -> tuple[Callable[[Tour], None], ...]:
    """The chapters, in order."""
    from rheos.tour.complete import complete
    from rheos.tour.learn import learn
    from rheos.tour.plane import plane
    from rheos.tour.straighten import straighten

    return learn, straighten, complete, plane


CHAPTERS = chapters


def run_tour(
    options: TourOptions, say: Callable[[str], None] = lambda line: None, progress: bool | None = None
) -> TourResult:
    """Tell all chapters and write the report.

    Args:
        options: See `TourOptions`.
        say: Called with a line before each part of the work.
        progress: Whether bars are drawn; None: on terminals.

    Raises:
        RheosError: For bad data or options, before any work is done.
    """
    begun = time.perf_counter()
    size = options.size or (16 if options.data == "mnist5k" else 32)
    data = load(options.data, size=size)
    train, held_out = data.split(0.2, seed=0)
    page = Page(
        "A flow, from noise to a single step",
        f"{len(train):,} pictures of {data.name}, {size} × {size} pixels, learned on this machine.",
    )
    tour = Tour(options, train, held_out, page, say, progress)
    for chapter in chapters():
        chapter(tour)
    if options.captions:
        from rheos.tour.words import words

        words(tour)
    _table(tour)
    page.footer(f"rheos tour, seed {options.seed}, {torch.get_num_threads()} threads, torch {torch.__version__}.")
    seconds = time.perf_counter() - begun
    report = page.save(options.out / "report.html")
    sheets = {name: upscale(grid(train.to_pictures(x), 5), 200) for name, x in tour.poster.items()}
    save_png(options.out / "tour.png", beside(sheets))
    record = {"options": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}}
    record |= {"rows": tour.rows, "seconds": seconds, "threads": torch.get_num_threads()}  # type: ignore[dict-item]
    write_whole(options.out / "tour.json", json.dumps(record, indent=1))
    return TourResult(report, tuple(tour.rows), seconds)


def _table(tour: Tour) -> None:
    """All lines of quality, with what they mean."""
    page = tour.page.heading("What it costs and what it gives")
    first = tour.rows[0]
    page.text(
        f"Every line: {first['fake']:,} samples against {first['real']:,} held-out pictures that no flow saw, in the "
        f"features of the net {first['features']!r}. Evaluations are network calls a sample. Fréchet distance: smaller "
        "is better. Recognised: the share of samples that a classifier reads as the digit that was asked for; it "
        "flatters blurred averages, so read it beside recall, the share of real pictures that the samples surround."
    )
    quality_table(page, tour.rows)
