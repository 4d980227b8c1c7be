"""Runs and rows that commands work on: a flow from its folder, and rows that a user names, read like the run's data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheos.commands import kit

if TYPE_CHECKING:
    from rheos.data import Data
    from rheos.train import Run

__all__ = ["flow_run", "rows_like"]


def flow_run(path: Path) -> "Run":
    """A run that can be sampled.

    Raises:
        RunError: If there is no run.
        OptionError: If it trained something else than a flow.
    """
    from rheos.nets.autoencoder import Autoencoder
    from rheos.train import load

    run = load(path)
    if isinstance(run.field.net, Autoencoder):
        source = run.config["data"]["spec"].get("source") or "DATA"
        raise kit.misuse(
            f"{path} is an autoencoder, no flow. Learn a flow of its latents:  rheos train --data {source} --set "
            f"data.codec={path} --out runs/latent"
        )
    return run


def rows_like(run: "Run", source: str, *, pictures: bool) -> "Data":
    """Rows that a user names, of the size, colour and range that the run knows.

    Args:
        run: The run.
        source: A folder, a .npy or .npz file, or a built-in set.
        pictures: True: pictures as the flow knows them. False: what samples depend on, such as captions or masks; then
            a folder of a run with masks holds masks, and a .npz needs no samples.

    Raises:
        RheosError: If they cannot be read.
    """
    from rheos.data import load

    path = Path(source).expanduser()
    spec = _spec(run, ("codec",) if pictures else ("conditions", "embed", "palette"))
    if path.suffix in (".npz", ".npy"):
        spec["range"] = run.origin.get("range")
        lone = None if pictures else _columns(path, run.field.shape or ())
        return load(lone, **{**spec, "range": "raw"}) if lone else load(source, **spec)
    masks: dict[str, Any] = {"masks": source} if path.is_dir() and not pictures and run.origin.get("masks") else {}
    return load(source, **spec, **masks)


def _spec(run: "Run", names: tuple[str, ...]) -> dict[str, Any]:
    """How rows are read: some of the run's own options, and the size and colour of its pictures."""
    spec = {k: v for k, v in run.origin.items() if k in ("size", "colour", *names)}
    shape = run.field.shape or ()
    if run.codec is None and len(shape) == 3:
        spec["colour"] = {1: "grey", 3: "rgb"}.get(shape[0])
        if shape[1] == shape[2]:
            spec["size"] = shape[1]
    return spec


def _columns(path: Path, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The arrays of a .npz without samples, beside empty ones; None for any other file, which `load` judges."""
    import zipfile
    import zlib

    import numpy as np

    from rheos.data.arrays import SAMPLES

    try:
        with np.load(path, allow_pickle=False) as file:
            if path.suffix != ".npz" or not file.files or any(name in SAMPLES for name in file.files):
                return None
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return {**arrays, "x": np.zeros((len(next(iter(arrays.values()))), *shape), np.float32)}
