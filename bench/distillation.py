"""What pairs cost beside the teacher's bare calls, and what a one-step student saves, from `draw` to samples."""

import tempfile
from itertools import count
from pathlib import Path

import torch

from bench.harness import Ratio, in_turn
from rheos.core import Field
from rheos.distill import Recipe, generate
from rheos.nets import UNet
from rheos.sample import draw

ROWS, STEPS, SIZE = 64, 20, 16
REPEATS = 7


def _teacher() -> Field:
    torch.manual_seed(0)
    return Field(UNet(channels=1, classes=10), shape=(1, SIZE, SIZE), value_range=(-1.0, 1.0)).eval()


def generation() -> list[Ratio]:
    """Rows a second of `generate`, with noise, solver, conditions and files, over those of the bare network calls."""
    torch.set_num_threads(1)
    teacher, number = _teacher(), count()
    x, t = torch.randn(ROWS, 1, SIZE, SIZE), torch.full((ROWS,), 0.5)
    label = torch.arange(ROWS) % 10

    @torch.no_grad()
    def bare() -> None:
        for _ in range(2 * STEPS):
            teacher.net(x, t, label=label)

    with tempfile.TemporaryDirectory(prefix="rheos-") as folder:
        recipe = Recipe(steps=STEPS, solver="euler", chunk=ROWS)
        times = in_turn(
            {
                "bare": bare,
                "rheos": lambda: generate(teacher, Path(folder) / str(next(number)), 2 * ROWS, recipe=recipe),
            },
            REPEATS,
        )
    ratio = times["bare"].median / times["rheos"].median
    detail = (
        f"{2 * ROWS} rows of {SIZE} x {SIZE} in {STEPS} Euler steps: {times['rheos'].text(1e3, 'ms')}, the calls alone "
        f"{times['bare'].text(1e3, 'ms')}"
    )
    return [Ratio("pair generation, rows a second", "the network's calls alone", ratio, ">=", 0.9, detail=detail)]


def one_step() -> list[Ratio]:
    """Seconds of twenty Euler steps of a teacher over those of one step of a student of its size."""
    torch.set_num_threads(1)
    teacher, student = _teacher(), _teacher()
    student.times = (0.0, 1.0)
    times = in_turn(
        {
            "teacher": lambda: draw(teacher, ROWS, steps=STEPS, solver="euler", label=3),
            "student": lambda: draw(student, ROWS, label=3),
        },
        REPEATS,
    )
    ratio = times["teacher"].median / times["student"].median
    detail = (
        f"{ROWS} rows of {SIZE} x {SIZE}: {times['teacher'].text(1e3, 'ms')} against {times['student'].text(1e3, 'ms')}"
    )
    return [
        Ratio("one step of a student, end to end", f"{STEPS} steps of its teacher", ratio, ">=", 15.0, detail=detail)
    ]
