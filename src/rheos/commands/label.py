"""`rheos label`."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rheos.commands import kit

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Data
    from rheos.train import Run
    from rheos.train.symmuse import Reading

__all__ = ["Options", "main"]

EXAMPLES = "rheos label runs/mine photos --draws 8"


@dataclass(frozen=True)
class Options:
    """Read labels or masks off pictures, by a flow of pairs that was trained for it (symmflow).

    Labels are written as labels.csv with how sure each is; masks as PNG files that hold class numbers and show colours.
    Without pictures the rows that training held out are read, and compared with what is known of them.

    Args:
        run: The run directory.
        pictures: A folder of pictures, a .npz file or a built-in set.
        steps: Of the solver; one step is a regression, more are a sample.
        draws: Readings of each picture from different noise; their mean is the answer, their agreement says how sure.
        solver: A name of rheos list solvers.
        seed: Of the first row's noise.
        out: Folder for the files; a folder "labels" in the run unless given.
        batch: Rows at a time, to bound memory.
        json: Print what was done as JSON on standard output.
    """

    run: Annotated[Path, tyro.conf.Positional]
    pictures: Annotated[str | None, tyro.conf.Positional] = None
    steps: int = 1
    draws: int = 1
    solver: str = "euler"
    seed: int = 0
    out: Path | None = None
    batch: int = 256
    json: bool = False


def main(argv: Sequence[str]) -> int:
    """Read and write."""
    options = kit.parse(Options, argv, "label", EXAMPLES)
    for name in ("steps", "draws", "batch"):
        if getattr(options, name) < 1:
            raise kit.misuse(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if options.seed < 0:
        raise kit.misuse(f"--seed must be at least 0, got {options.seed}.")
    from rheos.commands.given import flow_run
    from rheos.core.errors import check_choice
    from rheos.sample import SOLVERS
    from rheos.train.pairnet import PairNet

    check_choice("solver", options.solver, SOLVERS)
    run = flow_run(options.run)
    if not isinstance(run.field.net, PairNet):
        raise kit.misuse(f"{options.run} reads no labels. Train a flow that does: --set objective=SymmFlow.")
    data, names = _rows(run, options.pictures)
    begun = time.perf_counter()
    read = _read(run, data, options)
    seconds = time.perf_counter() - begun
    folder = options.out or options.run / "labels"
    files = _write(run, read, names, folder)
    plain: dict[str, Any] = {
        "run": str(options.run), "n": len(data), "steps": options.steps, "draws": options.draws,
        "agreement": float(read.agreement.mean()), **_known(run, data, read), "seconds": round(seconds, 2),
        "files": [str(f) for f in files],
    }  # fmt: skip
    if options.json:
        kit.emit(plain)
        return 0
    print(files[0])
    known = "".join(f", {name} {plain[name]:.1%}" for name in ("accuracy", "mean_iou") if name in plain)
    kit.say(f"{len(data)} pictures read in {seconds:.1f} s{known}. Files are in {folder}.")
    return 0


def _rows(run: "Run", source: str | None) -> "tuple[Data, list[str]]":
    """Pictures as the run knows them, and a name for each."""
    from rheos.commands.given import rows_like

    if source is None:
        held = run.held_out()
        if held is None:
            raise kit.misuse("This run held no rows out. Name pictures to read: rheos label RUN PICTURES.")
        return held, [str(k) for k in range(len(held))]
    data = rows_like(run, source, pictures=True)
    if Path(source).is_dir():
        from rheos.data.folder import find_pictures

        files = find_pictures(Path(source))
        if len(files) == len(data):
            return data, files
    return data, [str(k) for k in range(len(data))]


def _read(run: "Run", data: "Data", options: Options) -> "Reading":
    import torch

    from rheos.show import progress_bar
    from rheos.train import symmflow

    parts = []
    with progress_bar("pictures", len(data)) as advance:
        for index in torch.split(torch.arange(len(data)), options.batch):
            x = data.batch(index).x
            parts.append(
                symmflow.read(
                    run.field, x, steps=options.steps, draws=options.draws, solver=options.solver,
                    seed=(index + options.seed).tolist(),
                )
            )  # fmt: skip
            advance(int(index[-1]) + 1, len(data))
    names = ("labels", "code", "scores", "spread", "agreement")
    return symmflow.Reading(*(torch.cat([getattr(p, name).cpu() for p in parts]) for name in names))


def _column(run: "Run") -> str:
    return str(run.config["objective"].get("column", "label"))


def _known(run: "Run", data: "Data", read: "Reading") -> dict[str, float]:
    """How right the reading is, where the truth is known."""
    import torch

    from rheos.metrics import mean_iou

    truth = data.columns.get(_column(run))
    if not isinstance(truth, torch.Tensor) or truth.shape != read.labels.shape:
        return {}
    right = (truth == read.labels).double()
    if truth.ndim == 1:
        return {"accuracy": float(right.mean())}
    classes = read.scores.shape[1]
    inside = truth < classes
    return {
        "accuracy": float(right[inside].mean()),
        "mean_iou": mean_iou(read.labels[inside], truth[inside], classes=classes),
    }


def _write(run: "Run", read: "Reading", names: list[str], folder: Path) -> list[Path]:
    from rheos.claims.checkout import write

    if read.labels.ndim > 1:
        stems = [str(Path(name).with_suffix("")) for name in names]
        unique = stems if len(set(stems)) == len(stems) else names  # a.jpg beside a.png
        return [_mask(folder / f"{name}.png", mask) for name, mask in zip(unique, read.labels, strict=True)]
    classes = list(run.config["data"]["class_names"]) if _column(run) == "label" else []
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file", "label", "number", "agreement", "spread"])
    for name, k, sure, spread in zip(
        names, read.labels.tolist(), read.agreement.tolist(), read.spread.tolist(), strict=True
    ):
        table.writerow([name, classes[k] if k < len(classes) else k, k, f"{sure:.4g}", f"{spread:.4g}"])
    write(folder / "labels.csv", text.getvalue().encode())
    return [folder / "labels.csv"]


def _mask(path: Path, mask: "Tensor") -> Path:
    """A palette picture: its numbers are the classes, its colours for people."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    from rheos.claims.checkout import write

    picture = Image.fromarray(mask.to("cpu").numpy().astype(np.uint8))
    picture.putpalette((colormaps["tab20"](np.arange(256) % 20)[:, :3] * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write(path, buffer.getvalue())
    return path
