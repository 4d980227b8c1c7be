"""Parts of tiny pipelines: text encoders with vocabularies of letters, and latents and conditions by family."""

import string
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from rheos.adapters import LatentField, from_diffusers

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LETTERS = list(string.ascii_lowercase)
CLIP = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
T5 = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in LETTERS)]


def clip(width: int, projected: bool = True) -> dict[str, Any]:
    """A tokenizer and a text encoder in the style of CLIP."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(CLIP), hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=width, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    vocabulary = {word: i for i, word in enumerate(CLIP)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8)
    return {"text_encoder": kind(config).eval(), "tokenizer": tokenizer}


def t5(kind: Any = transformers.T5EncoderModel, config: Any = transformers.T5Config) -> dict[str, Any]:
    """A tokenizer and a text encoder in the style of T5."""
    small = config(vocab_size=len(T5), d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    tokenizer = transformers.T5TokenizerFast(vocab=T5, extra_ids=0, model_max_length=12)
    return {"text_encoder": kind(small).eval(), "tokenizer": tokenizer}


def numbered(n: str, parts: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}{n}": part for name, part in parts.items()}


TEXTS = {"encoder_hidden_states": (3, 16), "pooled_projections": (8,)}
FAMILIES: dict[str, tuple[tuple[int, ...], dict[str, tuple[int, ...]], bool]] = {
    "sd3": ((4, 8, 8), TEXTS, True),
    "flux": ((4, 4, 4), TEXTS, True),
    "wan": ((4, 2, 4, 4), {"encoder_hidden_states": (3, 16)}, True),
    "unet": ((4, 8, 8), {"encoder_hidden_states": (3, 8)}, False),
    "plain_unet": ((3, 8, 8), {}, False),
    "dit": ((4, 4, 4), {}, False),
}
"""Shape of a latent, shapes of the conditions, and whether it is a flow."""


def rows(shapes: Mapping[str, tuple[int, ...]], n: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    return {name: torch.randn(n, *shape, generator=g) for name, shape in shapes.items()}


def adapted(name: str, request: pytest.FixtureRequest) -> tuple[LatentField, Tensor, dict[str, Tensor]]:
    """A family's field, two states and their conditions."""
    shape, texts, flow = FAMILIES[name]
    scheduler = None if flow else diffusers.DDIMScheduler()
    field = from_diffusers(request.getfixturevalue(name), scheduler, shape=shape)
    cond = {"class_labels": torch.tensor([1, 7])} if name == "dit" else rows(texts, 2)
    return field, torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)), cond
