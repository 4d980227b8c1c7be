"""Networks and pipelines of diffusers as fields.

The field's states are the network's own latents. What else a pipeline knows, its text encoders and its autoencoder, is
reached through methods of the field: `encode_prompt`, `decode`, `encode`.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.adapters.calls import Call, call_for, setting
from rheos.adapters.doors import ExactField
from rheos.adapters.semantics import FLOW_SCHEDULERS, Semantics, semantics
from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError
from rheos.core.paths import AffinePath

__all__ = ["LatentField", "Network", "from_diffusers", "parts"]


@final
class Network(nn.Module):
    """A diffusers network behind the door of a field.

    Args:
        model: The network.
        call: How it is called.
        meaning: What its clock and its output mean.
        prompts: Gives the conditions of the empty prompt when first needed, or None.
    """

    def __init__(self, model: nn.Module, call: Call, meaning: Semantics, prompts: Any = None) -> None:
        super().__init__()
        self.model, self.call, self.meaning = model, call, meaning
        self.conditions = call.conditions(model)
        self.nulls: Cond = {}
        self._prompts = prompts

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The output as the prediction that the field expects; t is float64."""
        timestep = cast(Tensor, self.meaning.timestep(t)).float()
        cond = {name: v.to(x.dtype) if v.is_floating_point() else v for name, v in cond.items()}
        return cast(Tensor, self.meaning.value(self.call(self.model, x, timestep, cond)))

    def null(self, name: str, n: int) -> Tensor:
        """The null value of a condition: what was set, the family's own, or that of the empty prompt.

        Raises:
            ConditionError: If there is none.
        """
        if name not in self.nulls:
            value = self.call.null(self.model, name)
            if value is not None:
                self.nulls[name] = value
            elif self._prompts is not None:
                self.nulls.update({k: v for k, v in self._prompts([""]).items() if k not in self.nulls})
        if name not in self.nulls:
            raise ConditionError(
                f"There is no null value for {name!r}: give the condition, or set one with field.set_null({name}=...)."
            )
        where = next(self.model.parameters()).device
        return self.nulls[name].to(where).expand(n, *self.nulls[name].shape[1:])


@final
class LatentField(ExactField):
    """The field of a diffusers network, with the pipeline around it where there is one.

    Args:
        network: The network behind its door.
        pipeline: The pipeline, or None.
        shape: One latent's shape, or None.
    """

    net: Network

    def __init__(self, network: Network, pipeline: Any = None, shape: tuple[int, ...] | None = None) -> None:
        meaning, shift = network.meaning, network.meaning.shift
        if meaning.dynamic is not None and shape is not None:
            tokens = network.call.tokens(shape)
            shift = shift if tokens is None else meaning.shift_for(meaning.mu(tokens))
        super().__init__(network, meaning.path, meaning.predicts, shift=shift, shape=shape)
        self._pipeline = (pipeline,)  # in a tuple: its modules are not this field's parameters

    @property
    def finite(self) -> tuple[float, float]:
        """Where the network may be asked, and a velocity formed from its output is finite."""
        return self.net.meaning.finite

    def __deepcopy__(self, memo: dict[int, Any]) -> "LatentField":
        """A copy of the network; the pipeline around it, with its text encoders and autoencoder, is shared."""
        memo[id(self._pipeline)] = self._pipeline
        new = LatentField.__new__(LatentField)
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def as_velocity(self) -> "LatentField":
        """A trainable copy on the linear path: the raw output is the velocity, the clock counts down from K to 0.

        A flow is copied as it is. A diffusion's output is not converted: this is how InstaFlow starts.
        """
        copied = copy.deepcopy(self)
        meaning = self.net.meaning
        if not meaning.flow:
            copied.net.meaning = Semantics(AffinePath("linear"), "velocity", steps=meaning.steps)
            copied.path, copied.predicts = copied.net.meaning.path, "velocity"
        copied.shift, copied.times = 1.0, None
        return copied.requires_grad_(True)

    def null(self, cond: Cond) -> Cond:
        """The unconditional branch; sizes and an embedded guidance scale stay."""
        kept = self.net.call.kept
        return {name: v if name in kept else self._null(name, len(v)) for name, v in cond.items()}

    def set_null(self, **cond: Tensor) -> "LatentField":
        """Set null values, one row each; returns this field.

        Raises:
            ConditionError: For unknown names, or more than one row.
        """
        for name, value in cond.items():
            if name not in self.conditions or value.shape[:1] != (1,):
                known = ", ".join(sorted(self.conditions)) or "none"
                raise ConditionError(
                    f"A null value has one row and the name of a condition ({known}), got {name} of shape "
                    f"{tuple(value.shape)}."
                )
            self.net.nulls[name] = value
        return self

    @property
    def pipeline(self) -> Any:
        """The pipeline.

        Raises:
            OptionError: If the field was made of a network alone.
        """
        if self._pipeline[0] is None:
            raise OptionError("This field was made of a network alone: prompts and pictures need the whole pipeline.")
        return self._pipeline[0]

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> Cond:
        """Conditions of one prompt or several, a row each, by the pipeline's own text encoders.

        Args:
            prompt: One row serves all samples of a draw.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self.net.call.prompt(self.pipeline, prompts, self.shape)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures or videos in about [-1, 1] of latents; the latents themselves where there is no autoencoder.

        Args:
            latents: Samples of this field.
        """
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            return latents
        scale, shift = _scaling(vae, latents)
        z = (latents / scale + shift).to(next(vae.parameters()).dtype)
        return cast(Tensor, vae.decode(z, return_dict=False)[0]).to(latents.dtype)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures or videos in [-1, 1]: the mode of the autoencoder's posterior, scaled.

        Args:
            pictures: (B, 3, height, width), or (B, 3, frames, height, width).
        """
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            return pictures
        posterior = vae.encode(pictures.to(next(vae.parameters()).dtype), return_dict=False)[0]
        z = cast(Tensor, posterior.mode()).to(pictures.dtype)
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


def from_diffusers(
    source: Any, scheduler: object = None, *, call: Call | None = None, shape: Sequence[int] | None = None
) -> LatentField:
    """A pipeline of diffusers, or its transformer or U-Net, as a field.

    Args:
        source: A pipeline, or a network of a known family (see `CALLS`).
        scheduler: What the clock and output of the network mean: a scheduler or its configuration. A pipeline brings
            its own; networks of families that are flows have shift 1 without one.
        call: How the network is called; found by its class.
        shape: One latent's shape, (channels, height, width) or (channels, frames, height, width); what the network's
            configuration says where it says it.

    Raises:
        OptionError: If there is no network, or nothing says what it predicts.
        UnknownOptionError: For an unknown family, or a scheduler without a meaning here.

    Example:
        >>> from diffusers import DDIMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, add_attention=False,
        ...                    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> field = from_diffusers(unet, DDIMScheduler())
        >>> field.predicts, field.shape, field(torch.zeros(2, 3, 8, 8), 0.5).shape
        ('noise', (3, 8, 8), torch.Size([2, 3, 8, 8]))
    """
    pipeline = None if isinstance(source, nn.Module) else source
    model = source if pipeline is None else _network(pipeline)
    call = call or call_for(model)
    scheduler = scheduler if scheduler is not None else getattr(pipeline, "scheduler", None)
    if scheduler is None:
        if not call.flow:
            raise OptionError(f"Nothing says what this {type(model).__name__} predicts: give its scheduler too.")
        scheduler = {"_class_name": FLOW_SCHEDULERS[0]}
    meaning = semantics(scheduler)
    size = tuple(int(n) for n in shape) if shape is not None else call.shape(model)

    def prompts(texts: list[str]) -> Cond:
        with torch.no_grad():
            return call.prompt(pipeline, texts, size)

    network = Network(model, call, meaning, prompts if hasattr(pipeline, "encode_prompt") else None)
    field = LatentField(network, pipeline, size)
    return field.train(model.training)  # or a draw, which restores the field's mode, would change the network's


def _network(pipeline: Any) -> nn.Module:
    if getattr(pipeline, "transformer_2", None) is not None:
        raise OptionError(
            f"This {type(pipeline).__name__} has two transformers, one for each part of the way. Adapt each with "
            "from_diffusers(pipeline.transformer, pipeline.scheduler) and choose by time."
        )
    for name in ("transformer", "unet"):
        model = getattr(pipeline, name, None)
        if isinstance(model, nn.Module):
            return model
    raise OptionError(f"{type(pipeline).__name__} has neither a transformer nor a U-Net: is it of diffusers?")


def parts(field: "LatentField") -> dict[str, object]:
    """Copies of a pipeline's field and network by name: what `rheos.load(student, custom=...)` needs.

    The file of a student names these classes, whose networks only the pipeline has; its weights go into the copies.

    Args:
        field: Of the same pipeline.
    """
    whole = copy.deepcopy(field)
    named = (whole, copy.deepcopy(field.net))
    return {f"{type(part).__module__}:{type(part).__qualname__}": part for part in named}
