import json
import re

import numpy as np
import pytest
from PIL import Image

from rheos.cli import main
from rheos.commands.distill import seconds_of

FEW = ("--evaluations", "1,2", "--n", "40", "--budget", "4s", "--methods", "reflow,splitmeanflow,boss")


@pytest.fixture(scope="module")
def blobs_run(tmp_path_factory):
    """A run of a few steps in the plane, with enough rows held out."""

    folder = tmp_path_factory.mktemp("runs") / "moons"
    words = ["train", "--data", "moons", "--out", str(folder), "--steps", "4"]
    assert main([*words, "--set", "data.limit=1000", "field.net.time_features=8"]) == 0
    return folder


@pytest.fixture(scope="module")
def distilled(blobs_run, tmp_path_factory):
    from rheos.cli import main

    out = tmp_path_factory.mktemp("distilled")
    assert main(["distill", str(blobs_run), *FEW, "--out", str(out)]) == 0
    return json.loads((out / "contest.json").read_text()), out


def test_every_method_has_a_line_for_every_number_of_evaluations_and_the_teacher_too(distilled):
    plain, out = distilled
    lines = {(e["method"], e["evaluations"]): e for e in plain["entries"]}
    assert set(lines) == {(m, k) for m in ("teacher", "reflow", "splitmeanflow", "boss") for k in (1, 2)}
    for (method, k), e in lines.items():
        assert e["error"] is None
        assert e["calls"] == k
        assert e["figures"]["sliced_wasserstein"] > 0
        assert (e["steps"] > 0) == (method != "teacher")
    assert (out / "contest.png").read_bytes().startswith(b"\x89PNG")


def test_the_winner_of_each_number_of_evaluations_is_a_run_that_can_be_sampled(distilled, rheos):
    plain, out = distilled
    for k in (1, 2):
        best = min((e for e in plain["entries"] if e["evaluations"] == k and e["steps"]), key=lambda e: e["chosen_by"])
        assert plain["winners"][str(k)] == best["method"]
        told = rheos("sample", out / f"winner-{k}", "--steps", k, "--n", "3", "--json", "--out", out / f"drawn-{k}")
        assert told.code == 0
        assert len(json.loads(told.out)["seeds"]) == 3


def test_table_and_figures_tell_of_solvers_and_of_the_teacher_by_its_own_recipe(distilled, blobs_run, rheos):
    plain, out = distilled
    assert plain["reference"]["calls"] == 40
    assert {e["solver"] for e in plain["entries"] if e["method"] == "splitmeanflow"} == {"jump"}
    told = rheos("distill", blobs_run, *FEW, "--out", out)
    best = next(e for e in plain["entries"] if e["evaluations"] == 2 and e["method"] == plain["winners"]["2"])
    assert f"    rheos sample {out / 'winner-2'}\n" in told.out
    assert re.search(r"timing 0 s, measuring \d+ s", told.err)
    drawn = json.loads(rheos("sample", out / "winner-2", "--n", "2", "--json", "--out", out / "drawn").out)
    assert (drawn["steps"], drawn["solver"]) == (2, best["solver"])
    assert re.search(r"teacher \(heun\) +heun +40 ", told.out)
    assert ("No student is better than the teacher" in told.out) == bool(plain["teacher_leads"])


def test_given_again_it_goes_on_from_what_is_there(distilled, blobs_run, rheos):
    plain, out = distilled
    told = rheos("distill", blobs_run, *FEW, "--out", out, "--json")
    again = json.loads(told.out)
    assert [e["figures"] for e in again["entries"]] == [e["figures"] for e in plain["entries"]]
    assert [e["steps"] for e in again["entries"]] == [e["steps"] for e in plain["entries"]]


def test_another_budget_in_the_same_folder_is_one_sentence_that_names_both(distilled, blobs_run, rheos):
    told = rheos("distill", blobs_run, *FEW, "--budget", "8s", "--out", distilled[1])
    assert told.code == 2
    assert re.search(r"holds a contest with another budget \(4 s, now 8 s\).* choose another --out\. ", told.err)
    assert "A training cannot be given more time afterwards" in told.err


def test_a_contest_that_is_stopped_names_the_command_that_goes_on(blobs_run, rheos, tmp_path, monkeypatch):
    from rheos.train.session import Session

    def stopped(session, wish):
        wish.signal = 0 if session.files is None else 15
        return wish.signal != 0

    monkeypatch.setattr(Session, "_stop", stopped)
    words = ("distill", str(blobs_run), "--evaluations", "1", "--n", "20", "--budget", "1s", "--methods", "reflow")
    told = rheos(*words, "--out", tmp_path / "out")
    assert told.code == 143
    assert "resume=True" not in told.err
    assert f"Go on:  rheos {' '.join(words)} --out {tmp_path / 'out'}" in told.err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_a_budget_is_a_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--budget", "soon"), "--budget is a time such as 90s, 10m or 2h, got 'soon'"),
        (("--n", "3"), "--n must be at least 20"),
        (("--methods", "reflw"), "did you mean 'reflow'"),
        (("--methods", " , "), "--methods names no method"),
        (("--methods", "reflw,"), "did you mean 'reflow'"),
        (("--evaluations", "0"), "--evaluations"),
        (("--prompts", "x.txt"), "--prompts belongs to a diffusers pipeline"),
    ],
)
def test_bad_usage_is_one_sentence(rheos, blobs_run, words, text):
    told = rheos("distill", blobs_run, *words)
    assert told.code == 2
    assert text in told.err
    assert told.err.count("\n") == 1


@pytest.fixture
def few_rows(tmp_path):
    """Makes a run on a file of so many rows."""

    def run(rows):
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(rows, 2)).astype("float32"))
        words = ["train", "--data", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "run"), "--steps", "2"]
        assert main(words) == 0
        return tmp_path / "run"

    return run


def test_with_few_held_out_rows_samples_are_compared_with_training_rows(rheos, few_rows, tmp_path):
    words = ("--evaluations", "1", "--n", "20", "--budget", "1s", "--methods", "reflow")
    told = rheos("distill", few_rows(100), *words, "--out", tmp_path / "out")
    assert told.code == 0
    assert re.search(r"Only \d+ rows were held out, so samples are compared with training rows", told.err)


def test_a_run_on_too_few_rows_is_refused(rheos, few_rows):
    told = rheos("distill", few_rows(30))
    assert told.code == 2
    assert re.search(r"compared on 40 rows at least; this run trained on \d+", told.err)


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory):
    """A flow of a few steps in the latents of digits, with 100 rows held out."""
    from rheos import core, train
    from rheos.data import load
    from rheos.nets import Autoencoder, UNet

    folder = tmp_path_factory.mktemp("latent")
    quick = train.Options(batch=8, warmup=0, sample_every=0, save_every=0)
    spec = {"source": "digits", "limit": 500, "split": ["train", 0.2, 0]}
    net = Autoencoder(1, factor=2, width=8)
    train.autoencoder(load(**spec), net=net, steps=2, out=folder / "ae", options=quick, progress=False)
    field = core.Field(UNet(4, width=8, multipliers=(1,), attention=(), classes=10))
    data = load(**spec, codec=folder / "ae")
    train.fit(field, core.FlowMatching(), data, steps=2, out=folder / "run", options=quick, progress=False)
    return folder / "run"


def test_a_flow_in_latents_is_judged_by_pictures_and_its_winners_draw_pictures(latent_run, rheos, tmp_path):
    out, few = tmp_path / "out", ("--evaluations", "2", "--n", "40", "--budget", "2s")
    told = rheos("distill", latent_run, *few, "--methods", "reflow,boss,consistency", "--out", out, "--json")
    assert told.code == 0
    plain = json.loads(told.out)
    assert {e["error"] for e in plain["entries"]} == {None}
    assert all(e["figures"]["frechet"] > 0 for e in plain["entries"])  # features of pictures, not of latents
    assert (out / "samples-2.png").read_bytes().startswith(b"\x89PNG")
    drawn = rheos("sample", out / "winner-2", "--steps", "2", "--n", "2", "--out", tmp_path / "drawn")
    assert drawn.code == 0
    assert (tmp_path / "drawn" / "000000.png").read_bytes().startswith(b"\x89PNG")
    # a student of pairs is measured by the pictures that its teacher learned from
    for place in ("reflow", "boss-2"):
        found = rheos("eval", out / place, "--n", "20", "--steps", "2", "--json")
        assert found.code == 0
        about = json.loads(found.out)
        assert about["real_rows"] == 100
        assert about["held_out"]
        assert about["lines"][1]["frechet"] > 0


def test_a_student_of_pairs_is_a_teacher_again(distilled, rheos, tmp_path):
    words = ("--evaluations", "1", "--n", "20", "--budget", "1s", "--methods", "reflow")
    told = rheos("distill", distilled[1] / "reflow", *words, "--out", tmp_path / "out")
    assert told.code == 0


@pytest.fixture
def pipeline(tmp_path):
    """The folder of a tiny Stable Diffusion 3 with random networks."""
    import torch

    diffusers = pytest.importorskip("diffusers")
    from pipelines import clip, numbered, t5

    torch.manual_seed(7)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,), latent_channels=4, norm_num_groups=2, layers_per_block=1, shift_factor=0.25,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip
    texts = {**clip(4), **numbered("_2", clip(4)), **numbered("_3", t5())}
    schedule = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = diffusers.StableDiffusion3Pipeline(transformer=net.eval(), vae=vae.eval(), scheduler=schedule, **texts)
    made.save_pretrained(tmp_path)
    return tmp_path


def test_a_pipeline_has_pictures_and_its_steps_are_halved(pipeline, rheos):
    (pipeline / "words.txt").write_text("a cat\na dog\n")
    few = ("--evaluations", "1", "--n", "20", "--budget", "2s", "--methods", "progressive,")
    told = rheos("distill", pipeline, *few, "--prompts", pipeline / "words.txt", "--json")
    assert told.code == 0
    assert "Infinity" not in (pipeline / "distill" / "contest.json").read_text()
    plain = json.loads(told.out)
    assert {e["method"]: e["error"] for e in plain["entries"]} == {"teacher": None, "progressive": None}
    png = (pipeline / "distill" / "samples-1.png").read_bytes()
    assert b"teacher, progressive" in png  # what its rows are
    assert "Rows of samples-1.png: teacher, progressive." in told.err


def test_a_pipelines_winner_draws_pictures_of_prompts_by_the_line_that_is_printed(pipeline, rheos, tmp_path):
    (pipeline / "words.txt").write_text("a cat\na dog\n")
    few = ("--evaluations", "1", "--n", "20", "--budget", "2s", "--methods", "reflow")
    told = rheos("distill", pipeline, *few, "--prompts", pipeline / "words.txt")
    assert told.code == 0, told.err
    winner = pipeline / "distill" / "winner-1"
    assert f"rheos sample {winner} --caption 'a prompt'" in told.out
    assert rheos("sample", winner, "--caption", "a cat", "--n", "2", "--out", tmp_path / "cats").code == 0
    for name in ("000000.png", "000001.png"):
        with Image.open(tmp_path / "cats" / name) as picture:
            assert picture.size == (8, 8)
    told = rheos("sample", winner, "--caption", "a cat", "--caption", "a dog")
    assert told.code == 2
    assert "--caption is given once" in told.err
    told = rheos("sample", winner, "--n", "2", "--out", tmp_path / "cats")
    assert told.code == 2
    assert "needs prompts: --caption TEXT" in told.err


def test_a_file_without_prompts_is_refused(pipeline, rheos):
    (pipeline / "words.txt").write_text("\n \n")
    told = rheos("distill", pipeline, "--prompts", pipeline / "words.txt")
    assert told.code == 2
    assert re.search(r"words\.txt holds no prompt: one a line", told.err)


def test_a_folder_that_holds_no_whole_pipeline_is_refused(pipeline, rheos):
    for file in (pipeline / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    told = rheos("distill", pipeline, "--prompts", pipeline / "words.txt")
    assert told.code == 2
    assert f"The pipeline {pipeline} cannot be read" in told.err
