"""Stock pipelines with our scheduler: their own loop gives what `solve` gives on the adapted field, guided too."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from rheos.adapters import FluxCall, LatentField, as_diffusers, from_diffusers, from_scheduler
from rheos.core.errors import OptionError
from rheos.sample import CFG, draw, solve

STABLE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SOLVERS = pytest.mark.parametrize("solver", ["euler", "heun", "dpm++2m", "unipc"])


def embeds(width: int = 16, pooled: int | None = 8) -> dict[str, Tensor]:
    """What a pipeline takes in place of prompts."""
    made = {"prompt_embeds": torch.randn(1, 3, width), "negative_prompt_embeds": torch.randn(1, 3, width)}
    if pooled is not None:
        made["pooled_prompt_embeds"] = torch.randn(1, pooled)
        made["negative_pooled_prompt_embeds"] = torch.randn(1, pooled)
    return made


def conditions(made: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The same as conditions of the field."""
    named = {"encoder_hidden_states": made[f"{prefix}prompt_embeds"]}
    if f"{prefix}pooled_prompt_embeds" in made:
        named["pooled_projections"] = made[f"{prefix}pooled_prompt_embeds"]
    return named


def guided(field: LatentField, x: Tensor, times: tuple[float, ...], solver: Any, made: Any, scale: float) -> Tensor:
    """Our own sampling, with classifier-free guidance."""
    field.set_null(**conditions(made, "negative_"))
    steers = (CFG(scale),) if scale != 1 else ()
    solution = solve(field, x, times, solver, cond=conditions(made), steers=steers)
    assert isinstance(solution.x, Tensor)
    return solution.x


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def stable3(sd3: nn.Module, vae: nn.Module) -> Any:
    nothing = dict.fromkeys([f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")])
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=sd3, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), **nothing
        )
    )


@pytest.fixture
def fluxes(flux: nn.Module, vae: nn.Module) -> Any:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    nothing = dict.fromkeys(["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    return quiet(diffusers.FluxPipeline(transformer=flux, vae=vae, scheduler=peer, **nothing))


@pytest.fixture
def wans(wan: nn.Module) -> Any:
    peer = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=peer, transformer=wan))


@pytest.fixture
def stable(unet: nn.Module, vae: nn.Module) -> Any:
    peer = diffusers.DDIMScheduler(**STABLE, clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    nothing = dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor"])
    return quiet(
        diffusers.StableDiffusionPipeline(vae=vae, unet=unet, scheduler=peer, requires_safety_checker=False, **nothing)
    )


@SOLVERS
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_stable_diffusion_3(stable3: Any, solver: str, scale: float) -> None:
    stable3.scheduler = as_diffusers(solver, stable3.scheduler)
    field, made, x = from_diffusers(stable3), embeds(), torch.randn(1, 4, 8, 8)
    theirs = stable3(
        **made, latents=x, num_inference_steps=4, guidance_scale=scale, height=8, width=8, output_type="latent"
    ).images
    ours = guided(field, x, stable3.scheduler.times, solver, made, scale)
    torch.testing.assert_close(theirs, ours, **CLOSE)


@SOLVERS
def test_flux(fluxes: Any, solver: str) -> None:
    fluxes.scheduler = as_diffusers(solver, fluxes.scheduler)
    made, x = embeds(), torch.randn(1, 4, 8, 12)
    theirs = fluxes(
        prompt_embeds=made["prompt_embeds"], pooled_prompt_embeds=made["pooled_prompt_embeds"],
        latents=FluxCall.pack(x), num_inference_steps=4, guidance_scale=2.5, height=8, width=12, output_type="latent",
    ).images  # fmt: skip
    field = from_diffusers(fluxes, shape=(4, 8, 12))
    cond = {**conditions(made), "embedded_guidance": torch.tensor([2.5])}
    ours = solve(field, x, fluxes.scheduler.times, solver, cond=cond).x
    torch.testing.assert_close(FluxCall.unpack(theirs, 8, 12), ours, **CLOSE)
    # the field's own grid is the pipeline's: 24 tokens, one shift
    drawn = draw(field, 1, steps=4, solver=solver, source=x, **cond)  # type: ignore[arg-type]
    torch.testing.assert_close(drawn, ours, **CLOSE)


def test_flux_with_true_guidance(fluxes: Any) -> None:
    fluxes.scheduler = as_diffusers("dpm++2m", fluxes.scheduler)
    made, x = embeds(), torch.randn(1, 4, 8, 8)
    theirs = fluxes(
        **made, latents=FluxCall.pack(x), num_inference_steps=3, guidance_scale=3.5, true_cfg_scale=4.0, height=8,
        width=8, output_type="latent",
    ).images  # fmt: skip
    field = from_diffusers(fluxes, shape=(4, 8, 8))
    ours = guided(field, x, fluxes.scheduler.times, "dpm++2m", made, 4.0)
    torch.testing.assert_close(FluxCall.unpack(theirs, 8, 8), ours, **CLOSE)


@SOLVERS
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_wan(wans: Any, solver: str, scale: float) -> None:
    wans.scheduler = as_diffusers(solver, wans.scheduler)
    made, x = embeds(pooled=None), torch.randn(1, 4, 2, 4, 4)
    theirs = wans(
        **made, latents=x, num_inference_steps=4, guidance_scale=scale, height=32, width=32, num_frames=5,
        output_type="latent",
    ).frames  # fmt: skip
    field = from_diffusers(wans, shape=(4, 2, 4, 4))
    ours = guided(field, x, wans.scheduler.times, solver, made, scale)
    torch.testing.assert_close(theirs, ours, **CLOSE)


@SOLVERS
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_stable_diffusion(stable: Any, solver: str, scale: float) -> None:
    stable.scheduler = as_diffusers(solver, stable.scheduler)
    made, x = embeds(8, pooled=None), torch.randn(1, 4, 8, 8)
    theirs = stable(
        **made, latents=x, num_inference_steps=5, guidance_scale=scale, height=8, width=8, output_type="latent"
    ).images
    ours = guided(from_diffusers(stable), x, stable.scheduler.times, solver, made, scale)
    # velocities of a random network are of size 30 here, and float32
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_a_pipelines_own_scheduler_is_reproduced(stable: Any, stable3: Any) -> None:
    for pipe, made in ((stable, embeds(8, pooled=None)), (stable3, embeds())):
        recipe, x = from_scheduler(pipe.scheduler), torch.randn(1, 4, 8, 8)
        theirs = pipe(
            **made, latents=x, num_inference_steps=5, guidance_scale=4.0, height=8, width=8, output_type="latent"
        ).images
        # Stable Diffusion 3's pipeline gives no sigmas, so the scheduler's own grid is used
        ours = guided(from_diffusers(pipe), recipe.start(x, 5), recipe.times(5), recipe.solver, made, 4.0)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_the_latents_are_decoded_as_the_pipeline_decodes(stable3: Any) -> None:
    stable3.scheduler = as_diffusers("euler", stable3.scheduler)
    field, made, x = from_diffusers(stable3), embeds(), torch.randn(1, 4, 8, 8)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 8, "width": 8}
    latents = stable3(**made, latents=x, output_type="latent", **options).images
    pictures = stable3(**made, latents=x, output_type="pt", **options).images
    torch.testing.assert_close((field.decode(latents) / 2 + 0.5).clamp(0, 1), pictures)


def test_encoding_is_the_inverse_scaling(stable3: Any) -> None:
    field, picture = from_diffusers(stable3), torch.rand(1, 3, 8, 8) * 2 - 1
    mode = stable3.vae.encode(picture).latent_dist.mode()
    torch.testing.assert_close(field.encode(picture), (mode - 0.25) * 0.5)


def test_latents_of_wan_are_scaled_by_channel() -> None:
    class Autoencoder(nn.Module):
        """Doubles; its latents have a mean and a deviation a channel."""

        def __init__(self) -> None:
            super().__init__()
            self.config = {"latents_mean": [1.0, 2.0], "latents_std": [0.5, 4.0]}
            self.one = nn.Parameter(torch.ones(()))

        def decode(self, z: Tensor, return_dict: bool = True) -> tuple[Tensor]:
            return (2 * z,)

    class Pipe:
        def __init__(self, wan: nn.Module) -> None:
            self.transformer, self.vae = wan, Autoencoder()

    model = diffusers.WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=4, freq_dim=8, ffn_dim=8,
        num_layers=1, rope_max_seq_len=8,
    )  # fmt: skip
    field, z = from_diffusers(Pipe(model)), torch.randn(1, 2, 1, 2, 2)
    expected = 2 * (z * torch.tensor([0.5, 4.0]).view(1, 2, 1, 1, 1) + torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1))
    torch.testing.assert_close(field.decode(z), expected)


def test_a_pipeline_with_two_transformers_is_refused(wans: Any, wan: nn.Module) -> None:
    wans.transformer_2 = wan
    with pytest.raises(OptionError, match="two transformers"):
        from_diffusers(wans)


@SOLVERS
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_dit(dit: nn.Module, vae: nn.Module, solver: str, scale: float) -> None:
    peer = diffusers.DDIMScheduler(clip_sample=False)
    pipe = quiet(diffusers.DiTPipeline(dit, vae, as_diffusers(solver, peer)))
    labels, options = [7, 30], {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "pt"}
    theirs = pipe(labels, generator=torch.Generator().manual_seed(2), **options).images
    field, x = from_diffusers(pipe), torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    latents = draw(
        field, 2, steps=pipe.scheduler.times, solver=solver, guidance=scale, source=x, class_labels=torch.tensor(labels)
    )  # type: ignore[arg-type]
    pictures = vae.decode(latents / 0.5).sample  # type: ignore[operator]
    torch.testing.assert_close((pictures / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=1e-4)


def test_pictures_to_pictures_begin_in_the_middle(stable: Any, stable3: Any) -> None:
    picture = torch.rand(1, 3, 8, 8)
    nothing = dict.fromkeys([f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")])
    pipes = (
        (diffusers.StableDiffusionImg2ImgPipeline(
            vae=stable.vae, unet=stable.unet, scheduler=as_diffusers("heun", stable.scheduler), text_encoder=None,
            tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ), embeds(8, pooled=None), {}),
        (diffusers.StableDiffusion3Img2ImgPipeline(
            transformer=stable3.transformer, vae=stable3.vae, scheduler=as_diffusers("heun", stable3.scheduler),
            **nothing,
        ), embeds(), {"height": 8, "width": 8}),
    )  # fmt: skip
    for pipe, made, size in pipes:
        theirs = quiet(pipe)(
            image=picture, strength=0.5, num_inference_steps=4, guidance_scale=3.0, output_type="latent",
            generator=torch.Generator().manual_seed(5), **size, **made,
        ).images  # fmt: skip
        field, times = from_diffusers(pipe), pipe.scheduler.times[2:]
        generator = torch.Generator().manual_seed(5)
        posterior = pipe.vae.encode(picture * 2 - 1).latent_dist
        shift = 0.25 if size else 0.0  # the older pipeline knows no shift
        clean = (posterior.sample(generator) - shift) * 0.5
        law = field.path.law  # type: ignore[attr-defined]
        x = law.alpha(times[0]) * clean + law.sigma(times[0]) * torch.randn(clean.shape, generator=generator)
        ours = guided(field, x, times, "heun", made, 3.0)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))
