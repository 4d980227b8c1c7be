"""Networks of diffusers as fields: what the network says, by hand, is what the field says."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from rheos.adapters import Call, FluxCall, StepTable, from_diffusers
from rheos.core.errors import ConditionError, OptionError, ShapeError, UnknownOptionError
from rheos.sample import CFG, draw, grid_for, solve

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32 networks


def text(rows: int, tokens: int = 3, width: int = 16) -> Tensor:
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(tokens))


@torch.no_grad()
def test_sd3_predicts_the_negative_velocity_at_a_thousand_sigma(sd3: nn.Module) -> None:
    field = from_diffusers(sd3)
    x, cond = torch.randn(2, 4, 8, 8), {"encoder_hidden_states": text(2), "pooled_projections": torch.randn(2, 8)}
    raw = sd3(hidden_states=x, timestep=torch.full((2,), 700.0), **cond).sample
    torch.testing.assert_close(field(x, 0.3, **cond), -raw, **CLOSE)
    torch.testing.assert_close(field.data(x, 0.3, **cond), x - 0.7 * raw, **CLOSE)
    assert field.shape == (4, 8, 8)
    assert field.conditions == {"encoder_hidden_states", "pooled_projections"}


@torch.no_grad()
def test_flux_is_packed_and_takes_sigma_and_a_guidance_scale(flux: nn.Module) -> None:
    field = from_diffusers(flux, shape=(4, 8, 6))
    x, cond = torch.randn(2, 4, 8, 6), {"encoder_hidden_states": text(2), "pooled_projections": torch.randn(2, 8)}
    pack = diffusers.FluxPipeline._pack_latents
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(2, 4, 3, torch.device("cpu"), torch.float32)
    for scale, given in ((3.5, {}), (2.0, {"embedded_guidance": torch.full((2,), 2.0)})):
        raw = flux(
            hidden_states=pack(x, 2, 4, 8, 6), timestep=torch.full((2,), 0.7), guidance=torch.full((2,), scale),
            txt_ids=torch.zeros(3, 3), img_ids=ids, **cond,
        ).sample  # fmt: skip
        expected = -diffusers.FluxPipeline._unpack_latents(raw, 8, 6, 1)
        torch.testing.assert_close(field(x, 0.3, **cond, **given), expected, **CLOSE)


def test_packing_is_that_of_the_pipeline() -> None:
    x = torch.randn(2, 4, 6, 8)
    packed = FluxCall.pack(x)
    assert torch.equal(packed, diffusers.FluxPipeline._pack_latents(x, 2, 4, 6, 8))
    assert torch.equal(FluxCall.unpack(packed, 6, 8), x)
    with pytest.raises(ShapeError, match="even H and W"):
        FluxCall.pack(torch.zeros(1, 4, 3, 4))


@torch.no_grad()
def test_wan_is_a_flow_of_videos(wan: nn.Module) -> None:
    peer = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    field = from_diffusers(wan, peer, shape=(4, 2, 4, 4))
    x, cond = torch.randn(2, 4, 2, 4, 4), {"encoder_hidden_states": text(2)}
    raw = wan(hidden_states=x, timestep=torch.full((2,), 250.0), **cond).sample
    torch.testing.assert_close(field(x, 0.75, **cond), -raw, **CLOSE)
    assert field.shift == 3.0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_unet_is_converted_by_its_table(unet: nn.Module, kind: str) -> None:
    peer = diffusers.DDIMScheduler(**STABLE, prediction_type=kind)
    field = from_diffusers(unet, peer)
    x, k = torch.randn(2, 4, 8, 8), 601
    cond = {"encoder_hidden_states": text(2, width=8)}
    raw = unet(x, k, **cond).sample
    bar = float(peer.alphas_cumprod[k].double())
    a, s = bar**0.5, (1 - bar) ** 0.5
    data = {"epsilon": (x - s * raw) / a, "v_prediction": a * x - s * raw, "sample": raw}[kind]
    t = field.net.meaning.time(k)
    torch.testing.assert_close(field.data(x, t, **cond), data, rtol=1e-4, atol=1e-5)
    # the flow's velocity is alpha' x1 + sigma' x0
    law = field.path.law  # type: ignore[attr-defined]
    velocity = law.d_alpha(t) * data + law.d_sigma(t) * (x - a * data) / s
    torch.testing.assert_close(field(x, t, **cond), velocity, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_row_may_have_a_time_of_its_own(unet: nn.Module, flux: nn.Module) -> None:
    for field, x, cond in (
        (from_diffusers(unet, diffusers.DDIMScheduler()), torch.randn(2, 4, 8, 8), {"width": 8}),
        (from_diffusers(flux), torch.randn(2, 4, 4, 4), {"width": 16}),
    ):
        given: dict[str, Tensor] = {"encoder_hidden_states": text(2, **cond)}
        if "pooled_projections" in field.conditions:
            given["pooled_projections"] = torch.randn(2, 8)
        both = field(x, torch.tensor([0.2004, 0.9004], dtype=torch.float64), **given)
        for i, t in enumerate((0.2004, 0.9004)):
            alone = field(x[i : i + 1], t, **{n: v[i : i + 1] for n, v in given.items()})
            torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_clock_is_exact_at_the_networks_door() -> None:
    seen: list[Tensor] = []

    class Spy(diffusers.UNet2DModel):
        def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> Any:
            seen.append(timestep)
            return (sample,)

    tiny = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (2,)}
    spy = Spy(4, **tiny, norm_num_groups=1, layers_per_block=1, add_attention=False).to(torch.bfloat16)
    field = from_diffusers(spy, diffusers.DDIMScheduler())
    for k in (0, 333, 998, 999):
        field(torch.zeros(1, 3, 4, 4), field.net.meaning.time(k))
    assert [float(v) for v in seen] == [0.0, 333.0, 998.0, 999.0]  # bf16 has no 333
    assert seen[0].dtype == torch.float32


def test_the_exact_ends_are_finite_and_the_clean_end_is_left_to_the_solver(plain_unet: nn.Module) -> None:
    field = from_diffusers(plain_unet, diffusers.DDIMScheduler(clip_sample=False))
    assert isinstance(field.path.law, StepTable)  # type: ignore[attr-defined]
    assert field.finite == (0.0, 0.999)  # the network knows no step cleaner than its first
    x = draw(field, 2, steps=4, solver="heun", seed=1)
    assert x.shape == (2, 3, 8, 8)
    solution = solve(field, torch.randn(1, 3, 8, 8), (0.0, 0.5, 1.0), "heun")
    assert solution.calls == 3  # the last of four would ask at t = 1


def test_a_draw_uses_the_shift_of_the_configuration(sd3: nn.Module, flux: nn.Module) -> None:
    field = from_diffusers(sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert grid_for(field, 2) == pytest.approx((0.0, 0.25, 1.0))
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sized = from_diffusers(flux, peer, shape=(4, 32, 32))  # 256 tokens: mu = 0.5
    assert sized.shift == pytest.approx(torch.tensor(0.5).exp().item())


@torch.no_grad()
def test_guidance_mixes_with_the_null_conditions(sd3: nn.Module) -> None:
    names = {"encoder_hidden_states": text(1, 3), "pooled_projections": torch.randn(1, 8)}
    empty = {"encoder_hidden_states": text(1, 3) * 0.1, "pooled_projections": torch.randn(1, 8)}
    field = from_diffusers(sd3).set_null(**empty)
    x = torch.randn(1, 4, 8, 8)
    guided = solve(field, x, (0.0, 0.5), "euler", cond=names, steers=(CFG(4.0),)).x
    null, cond = field(x, 0.0, **empty), field(x, 0.0, **names)
    torch.testing.assert_close(guided, x + 0.5 * (null + 4.0 * (cond - null)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(field(x, 0.0), null)  # absent conditions are null


@torch.no_grad()
def test_guidance_keeps_an_embedded_scale(flux: nn.Module) -> None:
    field = from_diffusers(flux, shape=(4, 4, 4))
    cond = {"encoder_hidden_states": text(1), "embedded_guidance": torch.tensor([1.5])}
    field.set_null(encoder_hidden_states=text(1) * 0)
    null = field.null(cond)
    assert float(null["embedded_guidance"]) == 1.5
    assert float(null["encoder_hidden_states"].abs().max()) == 0.0


@torch.no_grad()
def test_a_unet_of_xl_takes_pooled_text_and_sizes() -> None:
    torch.manual_seed(0)
    xl = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=2, projection_class_embeddings_input_dim=6 * 2 + 4,
    ).eval()  # fmt: skip
    field = from_diffusers(xl, diffusers.EulerDiscreteScheduler(**STABLE))
    assert field.conditions == {"encoder_hidden_states", "text_embeds", "time_ids"}
    added = {"text_embeds": torch.randn(1, 4), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    x, words = torch.randn(1, 4, 8, 8), text(1, width=8)
    raw = xl(x, 499, encoder_hidden_states=words, added_cond_kwargs=added).sample
    torch.testing.assert_close(field.noise(x, 0.5, encoder_hidden_states=words, **added), raw, **CLOSE)
    assert field.null({"time_ids": added["time_ids"]})["time_ids"] is added["time_ids"]


@torch.no_grad()
def test_classes_are_conditions() -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, add_attention=False, num_class_embeds=3,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    field = from_diffusers(unet, diffusers.DDIMScheduler())
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    raw = unet(x, 499, class_labels=label).sample
    torch.testing.assert_close(field.noise(x, 0.5, class_labels=label), raw, **CLOSE)


def test_another_family_brings_its_own_call() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return 2 * x * sigma[:, None]

    class ByHand(Call):
        flow = True

        def conditions(self, model: nn.Module) -> frozenset[str]:
            return frozenset()

        def __call__(self, model: nn.Module, x: Tensor, timestep: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return model(x, timestep / 1000)

    with pytest.raises(UnknownOptionError, match="model 'Doubled' is unknown"):
        from_diffusers(Doubled())
    field = from_diffusers(Doubled(), call=ByHand(), shape=(3,))
    torch.testing.assert_close(field(torch.ones(1, 3), 0.75), torch.full((1, 3), -0.5))


def test_misuse_is_an_error_that_says_the_way_out(unet: nn.Module, sd3: nn.Module) -> None:
    with pytest.raises(OptionError, match="give its scheduler too"):
        from_diffusers(unet)
    with pytest.raises(OptionError, match="neither a transformer nor a U-Net"):
        from_diffusers(object())
    field = from_diffusers(sd3)
    with pytest.raises(ConditionError, match="set one with field"):
        field(torch.zeros(1, 4, 8, 8), 0.5)
    with pytest.raises(ConditionError, match="A null value has one row"):
        field.set_null(encoder_hidden_states=text(2))
    with pytest.raises(ConditionError, match="A null value has one row"):
        field.set_null(words=text(1))
    with pytest.raises(OptionError, match="the whole pipeline"):
        field.encode_prompt("a cat")
    with pytest.raises(OptionError, match="one time a row"):
        field(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4), encoder_hidden_states=text(1), pooled_projections=text(1)[0])
    wide = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), time_cond_proj_dim=4,
    )  # fmt: skip
    with pytest.raises(OptionError, match="needs a call of its own"):
        from_diffusers(wide, diffusers.DDIMScheduler())


def test_a_draw_leaves_the_network_in_its_mode(plain_unet: nn.Module) -> None:
    field = from_diffusers(plain_unet, diffusers.DDIMScheduler())
    draw(field, 1, steps=1, solver="ddim")
    assert not plain_unet.training
