"""Tiny random networks of diffusers, made from configurations: nothing is downloaded."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rheos.core import GaussianMixtureField
from rheos.core.query import Query, Reply

diffusers = pytest.importorskip("diffusers")


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    return make().eval()


@pytest.fixture(scope="session")
def unet() -> nn.Module:
    """In the style of Stable Diffusion 1.5."""
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return _seeded(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
            attention_head_dim=2, **blocks,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def plain_unet() -> nn.Module:
    """Without text."""
    return _seeded(
        lambda: diffusers.UNet2DModel(
            8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, add_attention=False,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def dit() -> nn.Module:
    """By class, with a learned variance, which no embedding of a prompt knows."""
    return _seeded(
        lambda: diffusers.DiTTransformer2DModel(
            sample_size=4, patch_size=2, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2,
            attention_head_dim=4, norm_num_groups=2, num_embeds_ada_norm=1000,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def sd3() -> nn.Module:
    """In the style of Stable Diffusion 3."""
    return _seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8,
            pos_embed_max_size=8,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def flux() -> nn.Module:
    """In the style of Flux, guidance-distilled; latents have 4 channels, tokens 16."""
    return _seeded(
        lambda: diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def wan() -> nn.Module:
    """In the style of Wan."""
    return _seeded(
        lambda: diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=16, freq_dim=32, ffn_dim=16, num_layers=1, cross_attn_norm=True, rope_max_seq_len=32,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def vae() -> nn.Module:
    """Pictures of the size of their latents, of 4 channels."""
    return _seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(4,), latent_channels=4, norm_num_groups=2, layers_per_block=1, scaling_factor=0.5,
            shift_factor=0.25, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        )
    )  # fmt: skip


class Counted(GaussianMixtureField):
    """The exact field, which counts its calls."""

    calls = 0

    def answer(self, q: Query) -> Reply:
        self.calls += 1
        return super().answer(q)


@pytest.fixture
def mixture() -> Counted:
    """Two clusters in the plane, in float64."""
    return Counted(torch.tensor([[1.5, 0.0], [-1.0, 0.5]], dtype=torch.float64), [0.4, 0.6])


@pytest.fixture
def noise() -> Tensor:
    """Where flows begin."""
    return torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
