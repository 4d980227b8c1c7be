"""What stands around a network of diffusers: text encoders and an autoencoder, in a pipeline at hand or in a folder.

A student keeps the place of its teacher's pipeline, not a copy of it. The pipeline is read when something is first
asked of it: from safetensors alone, without the network, without code of its own, and without the internet.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.adapters.calls import setting
from rheos.core.errors import OptionError, missing_extra

__all__ = ["Surroundings", "open_pipeline"]


def open_pipeline(place: str | Path, **parts: Any) -> Any:
    """A pipeline of diffusers, from safetensors alone and without the internet.

    Args:
        place: The folder, or a name in the cache of diffusers.
        **parts: Taken as they are, and not read; None leaves a part out.

    Raises:
        MissingExtraError: If diffusers is not installed.
        OptionError: If it cannot be read.
    """
    if find_spec("diffusers") is None:
        raise missing_extra(f"The pipeline {place}", "diffusers", "diffusers")
    from diffusers import DiffusionPipeline

    try:
        _check_parts(place, DiffusionPipeline.load_config(place, local_files_only=True))
        return DiffusionPipeline.from_pretrained(place, local_files_only=True, use_safetensors=True, **parts)
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise OptionError(f"The pipeline {place} cannot be read: {why.rstrip('.')}.", place=str(place)) from error


def _check_parts(place: str | Path, index: Any) -> None:
    """Refuse what would run code of the folder: older versions of diffusers ask nobody before they do.

    Raises:
        OptionError: If a part is of another library than diffusers and transformers, or there is Python beside them.
    """
    from diffusers import pipelines

    named = [value[0] for value in index.values() if isinstance(value, list | tuple) and value]
    foreign = [n for n in named if n not in (None, "diffusers", "transformers") and not hasattr(pipelines, str(n))]
    own = sorted(file.name for file in Path(place).rglob("*.py")) if Path(place).is_dir() else []
    if foreign or own or not isinstance(index.get("_class_name"), str):
        raise OptionError(
            f"The pipeline {place} has code of its own ({', '.join(map(str, [*foreign, *own])) or 'its class'}), which "
            "is not run. Open it yourself where you trust it, and give the pipeline: rheos.adapters.from_diffusers.",
            place=str(place),
        )


@final
class Surroundings:
    """A pipeline, or the place of one; copies of a network share it.

    Args:
        pipeline: The pipeline; the folder that holds one, or its name in the cache of diffusers; or None.
        slot: What the pipeline calls the network.
    """

    def __init__(self, pipeline: Any = None, slot: str = "transformer") -> None:
        self._pipeline = None if isinstance(pipeline, str | Path) else pipeline
        self._place = str(pipeline) if isinstance(pipeline, str | Path) else None
        self.slot = slot

    def __deepcopy__(self, memo: dict[int, Any]) -> "Surroundings":
        """Itself: pipelines are large, and nothing in them is trained."""
        return self

    @property
    def place(self) -> str | None:
        """Where the pipeline came from; an absolute path where that is a folder. None: nobody knows."""
        name = self._place or setting(self._pipeline, "_name_or_path")
        if not isinstance(name, str | Path) or not str(name):
            return None
        return str(Path(name).resolve()) if Path(name).is_dir() else str(name)

    @property
    def known(self) -> bool:
        """Whether there is a pipeline, or a place of one."""
        return self._pipeline is not None or self._place is not None

    def put(self, pipeline: Any) -> None:
        """A pipeline in the place of the one that was known."""
        self._pipeline = pipeline

    def opened(self, network: nn.Module | None = None) -> Any:
        """The pipeline, read on first use.

        Args:
            network: Takes the place of the pipeline's own network, which is not read.

        Raises:
            OptionError: If there is none, or it cannot be read.
            MissingExtraError: If diffusers is not installed.
        """
        if self._pipeline is None and self._place is None:
            raise OptionError(
                "This field was made of a network alone: prompts and pictures need the whole pipeline. Put one around "
                "it: rheos.adapters.surround(field, pipeline)."
            )
        if self._pipeline is None:
            self._pipeline = self._read(network)
        return self._pipeline

    def _read(self, network: nn.Module | None) -> Any:
        try:
            return open_pipeline(cast(str, self._place), **{self.slot: network})
        except OptionError as error:
            raise OptionError(
                f"{error} To put another pipeline around this network: rheos.adapters.surround(run.field, pipeline).",
                place=self._place,
            ) from error

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents by the pipeline's autoencoder; the latents themselves where it has none."""
        vae = getattr(self.opened(), "vae", None)
        if vae is None:
            return latents
        scale, shift = _scaling(vae, latents)
        first = next(vae.parameters())
        z = (latents / scale + shift).to(first.device, first.dtype)
        return cast(Tensor, vae.decode(z, return_dict=False)[0]).to(latents.device, latents.dtype)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures: the mode of the posterior, scaled."""
        vae = getattr(self.opened(), "vae", None)
        if vae is None:
            return pictures
        first = next(vae.parameters())
        posterior = vae.encode(pictures.to(first.device, first.dtype), return_dict=False)[0]
        z = cast(Tensor, posterior.mode()).to(pictures.device, pictures.dtype)
        scale, shift = _scaling(vae, z)
        return (z - shift) * scale


def _scaling(vae: object, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """(scale, shift) of latents = (z - shift) scale: one number each, or one a channel."""
    mean, std = setting(vae, "latents_mean"), setting(vae, "latents_std")
    if mean is not None and std is not None:
        ones = (1, -1, *([1] * (like.ndim - 2)))
        shift, spread = (torch.tensor(v, dtype=like.dtype, device=like.device).reshape(ones) for v in (mean, std))
        factor = setting(vae, "scaling_factor") or 1.0
        return float(factor) / spread, shift
    return float(setting(vae, "scaling_factor") or 1.0), float(setting(vae, "shift_factor") or 0.0)
