"""Smaller networks of diffusers, made from the large one's own configuration."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from rheos.adapters import from_diffusers
from rheos.adapters.latent import Network
from rheos.adapters.shrinking import picks
from rheos.core.errors import OptionError
from rheos.distill import Smaller, sizes
from rheos.distill.kit import student_of
from rheos.nets.count import parameters

COND = {"encoder_hidden_states": torch.randn(2, 3, 16), "pooled_projections": torch.randn(2, 8)}


def sd3(layers: int, dual: tuple[int, ...] = ()) -> nn.Module:
    torch.manual_seed(4)
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=layers, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=16, caption_projection_dim=32, pooled_projection_dim=8,
        pos_embed_max_size=8, dual_attention_layers=dual,
    ).eval()  # fmt: skip


def made(model: nn.Module, how: Smaller, scheduler: Any = None) -> Network:
    network = how(from_diffusers(model, scheduler).net)
    assert isinstance(network, Network)
    return network


def test_half_of_the_heads_is_half_of_the_width() -> None:
    field = from_diffusers(sd3(2))
    small = Smaller(width=0.5)(field.net)
    assert isinstance(small, Network)
    assert small.model.config["num_attention_heads"] == 2
    assert small.model.config["caption_projection_dim"] == 16
    for name, large in field.net.model.named_parameters():  # every matrix of the blocks is halved on both sides
        if name.startswith("transformer_blocks") and large.ndim == 2:
            a, b = small.model.get_parameter(name).shape
            assert large.shape == (2 * a, 2 * b)
    student = student_of(small)
    student.shape = field.shape
    report = sizes(field, student, rows=2, cond=COND)
    assert report.shrunk == parameters(small) / parameters(field.net) < 0.5
    assert 3 < report.teacher.macs / report.student.macs < 4  # the blocks' products fall to a quarter


@pytest.mark.parametrize(
    ("count", "kept", "found"), [(24, 1, [23]), (5, 2, [0, 4]), (5, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3])]
)
def test_blocks_are_picked_evenly_with_the_last(count: int, kept: int, found: list[int]) -> None:
    assert picks(count, kept) == found


@torch.no_grad()
@pytest.mark.parametrize("dual", [(), (0, 1)])
def test_without_blocks_that_do_nothing_the_student_is_the_teacher(dual: tuple[int, ...]) -> None:
    model = sd3(5, dual)
    for i in (1, 3):  # all that a block adds is multiplied by these
        for norm in (model.transformer_blocks[i].norm1, model.transformer_blocks[i].norm1_context):
            norm.linear.weight.zero_()
            norm.linear.bias.zero_()
    field = from_diffusers(model)
    student = student_of(made(model, Smaller(width=1.0, depth=0.6, begin="blocks"))).eval()
    assert student.net.model.config["num_layers"] == 3  # blocks 0, 2, 4
    assert list(student.net.model.config["dual_attention_layers"]) == ([0] if dual else [])
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(student(x, 0.3, **COND), field(x, 0.3, **COND), rtol=1e-6, atol=1e-6)


def _flux(flux: nn.Module) -> nn.Module:
    return diffusers.FluxTransformer2DModel(**{**_plain(flux), "num_layers": 2, "num_single_layers": 4})


def _wan(wan: nn.Module) -> nn.Module:
    return diffusers.WanTransformer3DModel(**{**_plain(wan), "num_layers": 2})


def _dit(dit: nn.Module) -> nn.Module:
    return diffusers.DiTTransformer2DModel(**{**_plain(dit), "num_layers": 2})


def _plain(model: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in model.config.items() if not k.startswith("_")}


LARGER: dict[str, Any] = {"flux": _flux, "wan": _wan, "dit": _dit}


@torch.no_grad()
@pytest.mark.parametrize(("width", "depth", "begin"), [(0.5, 1.0, "fresh"), (1.0, 0.5, "blocks"), (0.5, 0.5, "fresh")])
@pytest.mark.parametrize("name", LARGER)
def test_transformers_lose_heads_and_blocks_and_still_run(name, width, depth, begin, request):
    model = LARGER[name](request.getfixturevalue(name)).eval()
    small = made(model, Smaller(width, depth, begin), None if name != "dit" else diffusers.DDIMScheduler())
    for entry in ("num_attention_heads", "num_layers", "num_single_layers", "ffn_dim"):
        if entry in model.config:
            share = width if entry in ("num_attention_heads", "ffn_dim") else depth
            assert small.model.config[entry] == share * model.config[entry], entry
    if begin == "blocks":
        last, old = {
            "flux": ("single_transformer_blocks.1", "single_transformer_blocks.3"),
            "wan": ("blocks.0", "blocks.1"),
            "dit": ("transformer_blocks.0", "transformer_blocks.1"),
        }[name]
        for key, value in small.model.get_submodule(last).state_dict().items():
            assert torch.equal(value, model.get_submodule(old).state_dict()[key])
    shape = (4, 2, 4, 4) if name == "wan" else (4, 4, 4)
    texts: dict[str, Tensor] = {k: v for k, v in COND.items() if k in small.conditions}
    if name == "dit":
        texts["class_labels"] = torch.tensor([0, 1])
    student = student_of(small)
    assert (student.predicts, small.meaning.flow) == ("velocity", True)  # of a diffusion too
    assert student(torch.randn(2, *shape), 0.3, **texts).shape == (2, *shape)


@torch.no_grad()
def test_a_unet_loses_channels_that_groups_and_heads_divide(plain_unet: nn.Module) -> None:
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(12, 24), layers_per_block=2, norm_num_groups=2, cross_attention_dim=8,
        attention_head_dim=(2, 3), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    small = made(model, Smaller(0.5, 0.5), diffusers.DDIMScheduler())
    assert list(small.model.config["block_out_channels"]) == [6, 12]
    assert small.model.config["layers_per_block"] == 1
    out = student_of(small)(torch.randn(2, 4, 8, 8), 0.3, encoder_hidden_states=torch.randn(2, 3, 8))
    assert out.shape == (2, 4, 8, 8)
    with pytest.raises(OptionError, match=r"no list of like blocks.*begin fresh"):
        made(model, Smaller(1.0, 0.5, "blocks"), diffusers.DDIMScheduler())
    with pytest.raises(OptionError, match=r"does not become smaller with width 0\.9"):
        made(plain_unet, Smaller(0.9), diffusers.DDIMScheduler())


def test_fresh_weights_follow_the_seed_and_leave_the_process_alone() -> None:
    model = sd3(2)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, two, other = (made(model, Smaller(seed=s)).model.proj_out.weight for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_class_without_known_sizes_is_refused() -> None:
    class Own(diffusers.SD3Transformer2DModel):
        pass

    own = Own(**_plain(sd3(2)))
    with pytest.raises(OptionError, match="Nothing is known of the sizes of a Own"):
        made(own, Smaller())
