"""A codec on disk: codec.json and autoencoder.safetensors in a folder, or the run of an autoencoder."""

import inspect
import json
import os
import shutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rheos.core import config as plain
from rheos.core.errors import CheckpointError, DataError, RunError, missing_extra

if TYPE_CHECKING:
    from rheos.data.codecs import LatentCodec

__all__ = ["read_codec", "save_codec"]

FORMAT = 1
DIFFUSERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
"""Classes of diffusers that a file may ask for."""


def save_codec(codec: "LatentCodec", path: Path) -> Path:
    """See `LatentCodec.save`."""
    from safetensors.torch import save_file

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists already. Choose another name.")
    about = {
        "format": FORMAT,
        "model": plain.dump(codec.model, "model"),
        "scale": plain.dump(codec.scale),
        "shift": plain.dump(codec.shift),
        "delivers": list(codec.delivers),
        "hash": codec.hash,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        tensors = {n: v.detach().cpu().contiguous().clone() for n, v in codec.model.state_dict().items()}
        save_file(tensors, temporary / "autoencoder.safetensors", metadata={"format": "pt"})
        (temporary / "codec.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.", path=path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    codec.source = codec.source or str(path.resolve())
    return path


def read_codec(path: Path, custom: Mapping[str, object]) -> "LatentCodec":
    """See `LatentCodec.read`."""
    if (path / "codec.json").is_file():
        codec = _saved(path, custom)
    elif (path / "config.json").is_file():
        codec = _from_run(path)
    else:
        what = "holds neither codec.json nor a run" if path.is_dir() else "is not a folder"
        raise DataError(f"{path} {what}. A codec is what LatentCodec.save wrote, or the run of an autoencoder.")
    codec.source = str(path.resolve())
    return codec


def _saved(path: Path, custom: Mapping[str, object]) -> "LatentCodec":
    from rheos.data.codecs import LatentCodec

    about = _json(path / "codec.json")
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {about.get('format')}, this rheos reads {FORMAT}. Update rheos.")
    try:
        model = _model(about["model"], custom)
        low, high = about["delivers"]
        _restore(model, _tensors(path / "autoencoder.safetensors"), path)
        codec = LatentCodec(model, about["scale"], about["shift"], delivers=(low, high))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'codec.json'} is no codec of rheos: {error!r}.") from error
    if codec.hash != about["hash"]:
        raise CheckpointError(f"{path} was changed after it was written: its weights have another hash.")
    return codec


def _from_run(path: Path) -> "LatentCodec":
    """The autoencoder that a run trained, its average where there is one; the scale is not fitted yet."""
    from rheos.data.codecs import LatentCodec
    from rheos.nets.autoencoder import Autoencoder

    config = _json(path / "config.json")
    net = (config.get("field") or {}).get("net") or {}
    if net.get("kind") != "Autoencoder":
        raise DataError(
            f"{path} is the run of {net.get('kind', 'something else')}, not of an autoencoder. Train one: "
            "rheos train --set objective=Autoencoding, or rheos.train.autoencoder."
        )
    model = plain.load(net, expect=Autoencoder, name="field.net")
    average = path / "ema.safetensors"
    _restore(model, _tensors(average if average.is_file() else path / "model.safetensors"), path)
    span = (config.get("data") or {}).get("delivers") or (-1.0, 1.0)
    return LatentCodec(model, delivers=(span[0], span[1]))


def _model(description: Mapping[str, Any], custom: Mapping[str, object]) -> nn.Module:
    address = str(description.get("class", ""))
    module, _, name = address.partition(":")
    if module.startswith("diffusers.") and name in DIFFUSERS and address not in custom:
        if find_spec("diffusers") is None:
            raise missing_extra(f"The codec's autoencoder {name}", "diffusers", "diffusers")
        cls = getattr(import_module("diffusers"), name)
        known = inspect.signature(cls.__init__).parameters
        return cls(**{k: v for k, v in description.get("config", {}).items() if k in known})  # type: ignore[no-any-return]
    return plain.load(dict(description), custom=custom, expect=nn.Module, name="model")  # type: ignore[no-any-return]


def _restore(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"{path} was written for another autoencoder: {error}.", path=path) from error
    model.eval().requires_grad_(False)


def _tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is missing, truncated or not a safetensors file ({error}).", path=file) from None


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}.", path=file) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} is no file of rheos.", path=file)
    return found
