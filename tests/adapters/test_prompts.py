"""Prompts through tiny random text encoders, with vocabularies of single letters: a pipeline from text to picture."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor, nn

from pipelines import clip, numbered, t5
from rheos.adapters import as_diffusers, from_diffusers
from rheos.core.errors import ConditionError, OptionError
from rheos.sample import draw


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def stable(unet: nn.Module, vae: nn.Module) -> Any:
    peer = diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return quiet(
        diffusers.StableDiffusionPipeline(
            vae=vae, unet=unet, scheduler=peer, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False, **clip(8, projected=False),
        )
    )  # fmt: skip


def test_a_prompt_is_a_condition_and_the_empty_prompt_is_null(stable: Any) -> None:
    field = from_diffusers(stable)
    words, empty = stable.encode_prompt(["a cat"], torch.device("cpu"), 1, True)
    assert torch.equal(field.encode_prompt("a cat")["encoder_hidden_states"], words)
    assert torch.equal(field.null({"encoder_hidden_states": words})["encoder_hidden_states"], empty)
    both = field.encode_prompt(["a cat", "dog"])["encoder_hidden_states"]
    torch.testing.assert_close(both[:1], words)
    assert both.shape[0] == 2


def test_text_to_picture_is_the_pipelines(stable: Any) -> None:
    stable.scheduler = as_diffusers("dpm++2m", stable.scheduler)
    field, x = from_diffusers(stable), torch.randn(2, 4, 8, 8)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 8, "width": 8}
    theirs = stable(["a cat"], latents=x, num_images_per_prompt=2, output_type="latent", **options).images
    latents = draw(
        field, 2, steps=stable.scheduler.times, solver="dpm++2m", guidance=3.0, source=x, **field.encode_prompt("a cat")
    )  # type: ignore[arg-type]
    # velocities of a random network are of size 30 here, and float32
    torch.testing.assert_close(theirs, latents, rtol=1e-4, atol=1e-4 * float(latents.abs().max()))


def test_a_negative_prompt_is_another_null(stable: Any) -> None:
    stable.scheduler = as_diffusers("euler", stable.scheduler)
    field, x = from_diffusers(stable), torch.randn(1, 4, 8, 8)
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "latent"}
    theirs = stable("a cat", negative_prompt="dog", latents=x, **options).images
    field.set_null(**field.encode_prompt("dog"))
    ours = draw(
        field, 1, steps=stable.scheduler.times, solver="euler", guidance=3.0, source=x, **field.encode_prompt("a cat")
    )  # type: ignore[arg-type]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_a_pipeline_is_saved_and_loaded_with_our_scheduler(stable: Any, tmp_path: Path) -> None:
    stable.scheduler = as_diffusers("heun", stable.scheduler)
    stable.save_pretrained(tmp_path)
    again = quiet(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True))
    assert again.scheduler.solver == stable.scheduler.solver
    assert again.scheduler.meaning == stable.scheduler.meaning


@torch.no_grad()
def test_prompts_of_stable_diffusion_3(sd3: nn.Module, vae: nn.Module) -> None:
    third = numbered("_3", t5())
    first, second = clip(4), numbered("_2", clip(4))
    pipe = quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=sd3, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **first, **second, **third
        )
    )
    field = from_diffusers(pipe)
    text, null, pooled, null_pooled = pipe.encode_prompt("a cat", None, None, device=torch.device("cpu"))
    found = field.encode_prompt("a cat")
    assert torch.equal(found["encoder_hidden_states"], text)
    assert torch.equal(found["pooled_projections"], pooled)
    nulls = field.null(found)
    assert torch.equal(nulls["encoder_hidden_states"], null)
    assert torch.equal(nulls["pooled_projections"], null_pooled)


@torch.no_grad()
def test_prompts_of_flux(flux: nn.Module, vae: nn.Module) -> None:
    pipe = diffusers.FluxPipeline(
        transformer=flux, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **clip(8, projected=False),
        **numbered("_2", t5()),
    )  # fmt: skip
    field = from_diffusers(pipe, shape=(4, 4, 4))
    text, pooled, _ = pipe.encode_prompt("a cat", None)
    found = field.encode_prompt("a cat")
    assert torch.equal(found["encoder_hidden_states"], text)
    assert torch.equal(found["pooled_projections"], pooled)
    assert field(torch.zeros(1, 4, 4, 4), 0.5, **found).shape == (1, 4, 4, 4)


@torch.no_grad()
def test_prompts_of_wan(wan: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.wan import pipeline_wan

    monkeypatch.setattr(pipeline_wan, "prompt_clean", lambda text: text)  # which wants the package ftfy
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    encoder = t5(transformers.UMT5EncoderModel, transformers.UMT5Config)
    pipe = diffusers.WanPipeline(transformer=wan, vae=None, scheduler=peer, **encoder)
    field = from_diffusers(pipe, shape=(4, 1, 4, 4))
    text, null = pipe.encode_prompt("a cat", device=torch.device("cpu"))
    found = field.encode_prompt("a cat")
    assert torch.equal(found["encoder_hidden_states"], text)
    assert torch.equal(field.null(found)["encoder_hidden_states"], null)


class Xl:
    """A stand-in for the pipeline of Stable Diffusion XL: what the field asks of it, and no more."""

    vae_scale_factor = 8
    _execution_device = torch.device("cpu")

    def __init__(self) -> None:
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
            attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
            addition_time_embed_dim=2, projection_class_embeddings_input_dim=16,
        )  # fmt: skip
        self.scheduler = diffusers.EulerDiscreteScheduler()

    def encode_prompt(
        self, prompt: list[str], device: torch.device, num_images_per_prompt: int, do_classifier_free_guidance: bool
    ) -> tuple[Tensor, None, Tensor, None]:
        assert (num_images_per_prompt, do_classifier_free_guidance) == (1, False)
        n = torch.tensor([float(len(p)) for p in prompt])
        return n[:, None, None].expand(-1, 3, 8), None, n[:, None].expand(-1, 4), None


@torch.no_grad()
def test_prompts_of_xl_carry_the_size_of_the_picture() -> None:
    field = from_diffusers(Xl(), shape=(4, 8, 6))
    found = field.encode_prompt(["cat", "horse"])
    assert found["time_ids"].tolist() == [[64, 48, 0, 0, 64, 48]] * 2
    assert found["text_embeds"][:, 0].tolist() == [3.0, 5.0]
    assert field(torch.zeros(2, 4, 8, 6), 0.5, **found).shape == (2, 4, 8, 6)


def test_where_there_are_no_prompts_the_error_says_so(plain_unet: nn.Module) -> None:
    pipe = diffusers.DDPMPipeline(plain_unet, diffusers.DDPMScheduler())
    field = from_diffusers(pipe)
    with pytest.raises(ConditionError, match="DDPMPipeline takes no prompts"):
        field.encode_prompt("a cat")
    x = torch.randn(1, 3, 8, 8)
    assert field.decode(x) is x
    assert field.encode(x) is x
    xl = from_diffusers(Xl())
    xl.shape = None
    with pytest.raises(OptionError, match="carries the picture's size"):
        xl.encode_prompt("a cat")
