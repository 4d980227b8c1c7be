"""A student knows where its teacher's pipeline is, and reads words and decodes by it."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from pipelines import clip, numbered, t5
from rheos import core, nets, train
from rheos.adapters import LatentField, from_diffusers, network_of, open_pipeline, parts, surround
from rheos.adapters.latent import Network
from rheos.core import config
from rheos.core.errors import MissingExtraError, OptionError, UnknownOptionError
from rheos.distill import Recipe, Smaller, generate, reflow, splitmeanflow
from rheos.sample import draw

QUICK: Any = {"options": train.Options(batch=4, ema=0.0, warmup=0, sample_every=0, save_every=0), "progress": False}


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def folder(sd3: nn.Module, vae: nn.Module, tmp_path: Path) -> Path:
    """A pipeline with its text encoders, saved."""
    words = {**clip(4), **numbered("_2", clip(4)), **numbered("_3", t5())}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.StableDiffusion3Pipeline(transformer=sd3, vae=vae, scheduler=scheduler, **words)
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def opened(folder: Path) -> Any:
    return quiet(diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True))


@torch.no_grad()
def test_a_students_run_reads_prompts_and_decodes_by_its_teachers_pipeline(folder: Path, tmp_path: Path) -> None:
    pipe = opened(folder)
    field = from_diffusers(pipe)
    words = field.encode_prompt(["a cat", "dog"])
    pairs = generate(field, tmp_path / "pairs", 2, recipe=Recipe(steps=1, solver="euler"), cond=words)
    with torch.enable_grad():
        made = reflow(field, pairs, steps=1, out=tmp_path / "flow", **QUICK)
        samples = replace(pairs.data(), conditions=tuple(words))
        fast = splitmeanflow(made.field, samples, steps=1, out=tmp_path / "fast", **QUICK)
    stored = (tmp_path / "fast" / "config.json").read_text()
    assert json.loads(stored)["field"]["net"]["net"]["pipeline"] == str(folder.resolve())
    assert "custom" not in json.dumps(json.loads(stored)["field"])
    for path in (made.path, fast.path):
        run = train.load(path)
        network = network_of(run.field)
        assert isinstance(network, Network)
        again = network.encode_prompt(["a cat", "dog"])
        assert all(torch.equal(again[name], value) for name, value in words.items())
        nulls, expected = run.field.null(again), field.null(words)
        assert all(torch.equal(nulls[name], value) for name, value in expected.items())
        latents = draw(run.field, 2, steps=1, solver="euler", guidance=2.0, **again)
        torch.testing.assert_close(network.decode(latents), field.decode(latents))
        pictures = network.decode(latents)
        torch.testing.assert_close(network.encode(pictures), field.encode(pictures))
    assert network.around.opened().transformer is network.model  # the teacher's own weights were not read


def test_a_pipeline_that_has_moved_is_put_around_the_student(folder: Path, tmp_path: Path) -> None:
    field = config.load(config.dump(from_diffusers(opened(folder))))
    assert isinstance(field, LatentField)
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(OptionError, match=r"cannot be read.*surround\(run.field, pipeline\)"):
        field.encode_prompt("a cat")
    pipe = opened(tmp_path / "moved")
    assert surround(field, pipe) is field
    assert field.pipeline is pipe
    assert copy.deepcopy(field).pipeline is pipe
    with pytest.raises(OptionError, match="no network of diffusers in this Field"):
        surround(core.Field(nets.MLP(2)), pipe)


def test_a_network_alone_says_what_is_missing(sd3: nn.Module) -> None:
    field = from_diffusers(sd3)
    assert config.dump(field)["network"]["pipeline"] is None  # type: ignore[index, call-overload]
    with pytest.raises(OptionError, match=r"made of a network alone.*surround"):
        field.decode(torch.zeros(1, 4, 8, 8))


def test_pickles_of_a_pipeline_are_not_read(folder: Path) -> None:
    field = from_diffusers(opened(folder))
    for file in folder.rglob("*.safetensors"):
        if file.parent.name == "vae":
            torch.save({}, file.with_name("diffusion_pytorch_model.bin"))
            file.unlink()
    fresh = config.load(config.dump(field))
    with pytest.raises(OptionError, match="cannot be read"):
        fresh.decode(torch.zeros(1, 4, 8, 8))


def test_a_run_without_diffusers_names_the_extra(sd3: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = config.dump(from_diffusers(sd3))
    monkeypatch.setattr("rheos.adapters.described.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"SD3Transformer2DModel needs .*pip install 'rheos\[diffusers\]'"):
        config.load(plain)
    monkeypatch.setattr("rheos.adapters.surroundings.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"The pipeline somewhere needs .*rheos\[diffusers\]"):
        from_diffusers(sd3).net.around.__class__("somewhere").opened()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"class": "Popen"}, UnknownOptionError, "network 'Popen' is unknown"),
        ({"arguments": {"sample_sizes": 8}}, UnknownOptionError, "did you mean 'sample_size'"),
        ({"arguments": {"num_attention_heads": "two"}}, OptionError, "refuses its configuration"),
        ({"dtype": "load"}, UnknownOptionError, "dtype 'load' is unknown"),
    ],
)
def test_a_file_names_known_networks_and_nothing_else(sd3: nn.Module, change: Any, error: Any, words: str) -> None:
    plain: Any = json.loads(json.dumps(config.dump(from_diffusers(sd3))))
    plain["network"]["model"].update(change)
    with pytest.raises(error, match=words):
        config.load(plain)


def test_the_dtype_of_a_network_and_the_kind_of_its_nulls_come_back(sd3: nn.Module) -> None:
    field = from_diffusers(copy.deepcopy(sd3).to(torch.bfloat16))
    field.set_null(encoder_hidden_states=torch.ones(1, 3, 16), pooled_projections=torch.ones(1, 8).double())
    again = config.load(json.loads(json.dumps(config.dump(field))))
    assert next(again.parameters()).dtype == torch.bfloat16
    assert [v.dtype for v in again.net.nulls.values()] == [torch.float32, torch.float64]
    plain: Any = config.dump(field)
    plain["network"]["nulls"]["pooled_projections"]["dtype"] = "load"
    with pytest.raises(UnknownOptionError, match="dtype of the null pooled_projections"):
        config.load(plain)


class Own(diffusers.SD3Transformer2DModel):
    """A class of the user's."""


def test_a_network_of_your_own_class_is_handed_over(sd3: nn.Module) -> None:
    torch.manual_seed(0)
    field = from_diffusers(Own(**{k: v for k, v in sd3.config.items() if not k.startswith("_")}).eval())
    plain: Any = json.loads(json.dumps(config.dump(field)))
    assert plain["network"]["model"]["kind"] == "custom"
    with pytest.raises(OptionError, match=r"network.model is .*:Own, which the file only names"):
        config.load(plain)
    again = config.load(plain, custom=parts(field))
    assert again.net.model is not field.net.model
    assert torch.equal(again.net.model.proj_out.weight, field.net.model.proj_out.weight)


def test_files_of_older_versions_load_with_the_parts_of_their_pipeline(sd3: nn.Module) -> None:
    field = from_diffusers(sd3)
    old = {"kind": "custom", "class": "rheos.adapters.latent:LatentField"}
    assert isinstance(config.load(old, custom=parts(field)), LatentField)
    inner = {"kind": "TransportField", "net": {"kind": "custom", "class": "rheos.adapters.latent:Network"}}
    assert isinstance(config.load(inner, custom=parts(field)).net, Network)


def test_a_smaller_student_keeps_surroundings_and_nulls(sd3: nn.Module) -> None:
    field = from_diffusers(sd3).set_null(pooled_projections=torch.ones(1, 8))
    small = Smaller()(field.net)
    assert isinstance(small, Network)
    assert small.around is field.net.around
    assert torch.equal(small.null("pooled_projections", 1), torch.ones(1, 8))


@pytest.mark.parametrize("change", [{"_class_name": ["mine", "Mine"]}, {"vae": ["mine", "Mine"]}, None])
def test_a_pipeline_with_code_of_its_own_is_not_opened(folder: Path, change: dict[str, Any] | None) -> None:
    index = folder / "model_index.json"
    if change is None:
        (folder / "transformer" / "diffusers.py").write_text("raise SystemExit")
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(OptionError, match="code of its own"):
        open_pipeline(folder)


def test_a_pipeline_that_reads_no_prompts_surrounds_nothing(dit: nn.Module) -> None:
    field = from_diffusers(dit, diffusers.DDIMScheduler())
    field.net.around.put(object())
    assert not field.net.surrounded
