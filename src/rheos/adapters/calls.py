"""How each family of diffusers networks is called: what the state, the clock and the conditions are named there.

A `Call` is all that a new family needs; give your own to `from_diffusers(model, call=...)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice

__all__ = [
    "CALLS", "Call", "DiTCall", "FluxCall", "SD3Call", "UNetCall", "UNetConditionCall", "WanCall", "call_for",
    "setting",
]  # fmt: skip


def setting(module: object, name: str, default: object = None) -> Any:
    """An entry of a diffusers object's configuration."""
    config = getattr(module, "config", None)
    return config.get(name, default) if isinstance(config, Mapping) else getattr(config, name, default)


class Call(ABC):
    """The door of a family of networks."""

    flow = False
    """Whether these networks are flows on the linear path where no scheduler says what they are."""
    kept: frozenset[str] = frozenset()
    """Conditions that the unconditional branch keeps: sizes, an embedded guidance scale."""
    slot = "transformer"
    """What a pipeline calls such a network."""
    embeds_time: str | None = None
    """The submodule that embeds the clock, as `rheos.nets.TwoTimeAdapter` takes it; None: nobody knows."""
    widths: tuple[str, ...] = ()
    """Entries of the configuration that grow with the width: first the number of heads, or the channels of each level,
    then what keeps a ratio to it."""
    blocks: tuple[tuple[str, str], ...] = ()
    """Lists of blocks in a row, and the entry of the configuration that counts each; "" for what is no list."""

    @abstractmethod
    def conditions(self, model: nn.Module) -> frozenset[str]:
        """Names of the conditions that this network takes."""

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output at state x (B, ...) and timesteps (B,) on the scale of training."""

    def shape(self, model: nn.Module) -> tuple[int, ...] | None:
        """One sample's shape, where the network's configuration says it."""
        return None

    def tokens(self, shape: tuple[int, ...]) -> int | None:
        """The number of tokens that a shift by size counts, where the family has one."""
        return None

    def null(self, model: nn.Module, name: str) -> Tensor | None:
        """The null value of a condition, (1, ...), where the family has one."""
        return None

    def prompt(self, pipeline: Any, prompts: list[str], shape: tuple[int, ...] | None) -> Cond:
        """Conditions of prompts, by the pipeline's own text encoders.

        Raises:
            ConditionError: If this family takes no prompts.
        """
        raise ConditionError(f"{type(pipeline).__name__} takes no prompts.")


def _square(model: nn.Module) -> tuple[int, ...] | None:
    size, channels = setting(model, "sample_size"), setting(model, "in_channels")
    if size is None or channels is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(channels), int(height), int(width)


@final
@dataclass(frozen=True)
class UNetCall(Call):
    """`UNet2DModel`: pictures without text, with classes where the network has them."""

    slot = "unet"
    embeds_time = "time_embedding"
    widths = ("block_out_channels",)
    blocks = (("", "layers_per_block"),)

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """`class_labels`, or nothing."""
        return frozenset({"class_labels"} if setting(model, "class_embed_type") or _classes(model) else ())

    def shape(self, model: nn.Module) -> tuple[int, ...] | None:
        """Channels, height, width."""
        return _square(model)

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output."""
        return _sample(model(x, timestep, **cond, return_dict=False))


def _classes(model: nn.Module) -> bool:
    return setting(model, "num_class_embeds") is not None


def _sample(output: Sequence[Tensor]) -> Tensor:
    return output[0]


@final
@dataclass(frozen=True)
class UNetConditionCall(Call):
    """`UNet2DConditionModel`: Stable Diffusion 1 and 2, and XL with its pooled text and sizes."""

    kept = frozenset({"time_ids"})
    slot = "unet"
    embeds_time = "time_embedding"
    widths = ("block_out_channels",)
    blocks = (("", "layers_per_block"),)

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """`encoder_hidden_states`, and what the configuration adds to it."""
        added = setting(model, "addition_embed_type")
        if added not in (None, "text_time") or setting(model, "time_cond_proj_dim") is not None:
            raise OptionError(
                f"A U-Net with addition_embed_type={added!r} and a guidance embedding "
                f"(time_cond_proj_dim={setting(model, 'time_cond_proj_dim')}) needs a call of its own: call=..."
            )
        names = {"encoder_hidden_states"} | ({"text_embeds", "time_ids"} if added else set())
        return frozenset(names | ({"class_labels"} if setting(model, "class_embed_type") or _classes(model) else set()))

    def shape(self, model: nn.Module) -> tuple[int, ...] | None:
        """Channels, height, width."""
        return _square(model)

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output."""
        plain = dict(cond)
        added = {name: plain.pop(name) for name in ("text_embeds", "time_ids") if name in plain}
        extra = {"added_cond_kwargs": added} if added else {}
        return _sample(model(x, timestep, **plain, **extra, return_dict=False))

    def prompt(self, pipeline: Any, prompts: list[str], shape: tuple[int, ...] | None) -> Cond:
        """Text embeddings; for XL the pooled ones and the sizes as well."""
        device = pipeline._execution_device
        if setting(pipeline.unet, "addition_embed_type") is None:
            return {"encoder_hidden_states": pipeline.encode_prompt(prompts, device, 1, False)[0]}
        if shape is None:
            raise OptionError("A prompt of Stable Diffusion XL carries the picture's size: give shape=(4, H, W).")
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        size = tuple(int(n) * int(pipeline.vae_scale_factor) for n in shape[-2:])
        ids = torch.tensor([*size, 0, 0, *size], dtype=text.dtype, device=device)
        return {"encoder_hidden_states": text, "text_embeds": pooled, "time_ids": ids.expand(len(prompts), -1)}


@final
@dataclass(frozen=True)
class DiTCall(Call):
    """`DiTTransformer2DModel`: latents by class; a learned variance in the second half of the output is left out."""

    embeds_time = "transformer_blocks.*.norm1.emb.timestep_embedder"
    widths = ("num_attention_heads",)
    blocks = (("transformer_blocks", "num_layers"),)

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """`class_labels`."""
        return frozenset({"class_labels"})

    def shape(self, model: nn.Module) -> tuple[int, ...] | None:
        """Channels, height, width."""
        return _square(model)

    def null(self, model: nn.Module, name: str) -> Tensor | None:
        """One class beyond the last."""
        classes = setting(model, "num_embeds_ada_norm")
        return torch.tensor([int(classes)]) if classes is not None else None

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output."""
        return _sample(model(x, timestep=timestep, **cond, return_dict=False))[:, : x.shape[1]]


@final
@dataclass(frozen=True)
class SD3Call(Call):
    """`SD3Transformer2DModel`: Stable Diffusion 3."""

    flow = True
    embeds_time = "time_text_embed.timestep_embedder"
    widths = ("num_attention_heads", "caption_projection_dim")
    blocks = (("transformer_blocks", "num_layers"),)

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """Text embeddings and the pooled ones."""
        return frozenset({"encoder_hidden_states", "pooled_projections"})

    def shape(self, model: nn.Module) -> tuple[int, ...] | None:
        """Channels, height, width."""
        return _square(model)

    def tokens(self, shape: tuple[int, ...]) -> int | None:
        """Patches of two by two."""
        return (shape[-2] // 2) * (shape[-1] // 2)

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output."""
        return _sample(model(hidden_states=x, timestep=timestep, **cond, return_dict=False))

    def prompt(self, pipeline: Any, prompts: list[str], shape: tuple[int, ...] | None) -> Cond:
        """By the pipeline's three encoders."""
        text, _, pooled, _ = pipeline.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            device=pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"encoder_hidden_states": text, "pooled_projections": pooled}


@final
@dataclass(frozen=True)
class FluxCall(Call):
    """`FluxTransformer2DModel`: states are latents (B, C, H, W); patches of two by two are packed here.

    Args:
        guidance: The embedded guidance scale of guidance-distilled networks where the condition `embedded_guidance`
            is absent.
    """

    guidance: float = 3.5

    flow = True
    kept = frozenset({"embedded_guidance"})
    embeds_time = "time_text_embed.timestep_embedder"
    widths = ("num_attention_heads",)
    blocks = (("transformer_blocks", "num_layers"), ("single_transformer_blocks", "num_single_layers"))

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """Text embeddings and the pooled ones; distilled networks take a guidance scale a row too."""
        names = {"encoder_hidden_states", "pooled_projections"}
        return frozenset(names | ({"embedded_guidance"} if setting(model, "guidance_embeds") else set()))

    def null(self, model: nn.Module, name: str) -> Tensor | None:
        """The embedded guidance."""
        return torch.tensor([self.guidance]) if name == "embedded_guidance" else None

    def tokens(self, shape: tuple[int, ...]) -> int | None:
        """Patches of two by two."""
        return (shape[-2] // 2) * (shape[-1] // 2)

    @staticmethod
    def pack(x: Tensor) -> Tensor:
        """(B, C, H, W) as the network's tokens (B, H/2 · W/2, 4 C).

        Raises:
            ShapeError: If height or width are odd.

        Example:
            >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
            >>> FluxCall.pack(x)[0, 0], torch.equal(FluxCall.unpack(FluxCall.pack(x), 4, 4), x)
            (tensor([0., 1., 4., 5.]), True)
        """
        if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ShapeError(f"Flux latents have shape (B, C, H, W) with even H and W, got {tuple(x.shape)}.")
        b, c, h, w = x.shape
        return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)

    @staticmethod
    def unpack(x: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `pack`, for latents of a height and width."""
        b, _, c = x.shape
        x = x.view(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(b, c // 4, height, width)

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output, unpacked."""
        h, w, text = x.shape[-2], x.shape[-1], cond["encoder_hidden_states"]
        tokens = self.pack(x)
        rows, columns = (torch.arange(n // 2, device=x.device, dtype=text.dtype) for n in (h, w))
        grid = torch.meshgrid(rows, columns, indexing="ij")
        places = torch.stack((torch.zeros_like(grid[0]), *grid), -1).reshape(-1, 3)
        output = model(
            hidden_states=tokens,
            timestep=timestep / 1000,
            guidance=cond.get("embedded_guidance"),
            encoder_hidden_states=text,
            pooled_projections=cond["pooled_projections"],
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=text.dtype),
            img_ids=places,
            return_dict=False,
        )
        return self.unpack(_sample(output), h, w)

    def prompt(self, pipeline: Any, prompts: list[str], shape: tuple[int, ...] | None) -> Cond:
        """By the pipeline's two encoders."""
        text, pooled, _ = pipeline.encode_prompt(
            prompt=prompts, prompt_2=None, device=pipeline._execution_device, num_images_per_prompt=1
        )
        return {"encoder_hidden_states": text, "pooled_projections": pooled}


@final
@dataclass(frozen=True)
class WanCall(Call):
    """`WanTransformer3DModel`: video latents (B, C, frames, H, W)."""

    flow = True
    embeds_time = "condition_embedder.time_embedder"
    widths = ("num_attention_heads", "ffn_dim")
    blocks = (("blocks", "num_layers"),)

    def conditions(self, model: nn.Module) -> frozenset[str]:
        """Text embeddings, and those of a picture where the network takes one."""
        names = {"encoder_hidden_states"}
        return frozenset(names | ({"encoder_hidden_states_image"} if setting(model, "image_dim") else set()))

    def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """The raw output."""
        return _sample(model(hidden_states=x, timestep=timestep, **cond, return_dict=False))

    def prompt(self, pipeline: Any, prompts: list[str], shape: tuple[int, ...] | None) -> Cond:
        """By the pipeline's encoder."""
        device = pipeline._execution_device
        text = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=device)[0]
        return {"encoder_hidden_states": text}


CALLS: dict[str, Call] = {
    "UNet2DModel": UNetCall(),
    "UNet2DConditionModel": UNetConditionCall(),
    "DiTTransformer2DModel": DiTCall(),
    "SD3Transformer2DModel": SD3Call(),
    "FluxTransformer2DModel": FluxCall(),
    "WanTransformer3DModel": WanCall(),
}
"""Families by the class of their network."""


def call_for(model: nn.Module) -> Call:
    """The call of a network's class, or of one that it inherits from.

    Raises:
        UnknownOptionError: For a class without one; write a `Call` and give it as call=...
    """
    for kind in type(model).__mro__:
        if kind.__name__ in CALLS:
            return CALLS[kind.__name__]
    check_choice("model", type(model).__name__, CALLS)
    raise AssertionError
