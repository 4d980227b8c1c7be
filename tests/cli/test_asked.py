"""What samples depend on, from the command line: captions, masks, and rows of other data."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rheos import load
from rheos.core import Draws, Uniform
from rheos.data import CLIPText, EmojiCaptions
from rheos.data import load as load_data
from rheos.sample import draw
from rheos.train import crossflow, symmflow

QUIET = ("options.batch=8", "options.sample_every=0")
CROSS = ("objective=CrossFlow", "field.net.net.width=8")


def trained(rheos, out, source, *changes):
    result = rheos("train", "--data", source, "--out", out, "--steps", "2", "--set", *QUIET, *changes)
    assert result.code == 0, result.err
    return out


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of 8 x 8 with masks of three classes, a file each."""
    home = tmp_path_factory.mktemp("scenes")
    for kind in ("pictures", "masks"):
        (home / kind).mkdir()
    rng = np.random.default_rng(0)
    for k in range(20):
        mask = np.zeros((8, 8), np.uint8)
        a, b = rng.integers(0, 5, 2)
        mask[a : a + 3, b : b + 3] = 1 + k % 2
        Image.fromarray(np.stack([mask * 100, 200 - mask * 80, mask], -1)).save(home / "pictures" / f"{k:02d}.png")
        Image.fromarray(mask).save(home / "masks" / f"{k:02d}.png")
    return home


@pytest.fixture
def emoji(rheos, tmp_path):
    def run(*changes):
        first = ("data.embed=emoji", "data.limit=60", "data.size=8")
        return trained(rheos, tmp_path / "run", "emoji", *first, *changes)

    return run


def test_captions_begin_a_cross_modal_flow_as_in_python(rheos, emoji, tmp_path):
    folder = emoji("objective=CrossFlow", "field.net.net.width=8")
    words = ("sample", folder, "--n", "3", "--steps", "2", "--solver", "euler", "--guidance", "2", "--format", "npz")
    told = json.loads(rheos(*words, "--caption", "red apple", "beer mug", "--out", tmp_path, "--json").out)
    assert told["captions"] == ["red apple", "beer mug", "red apple"]
    assert told["network_calls"] == 4
    found = np.load(tmp_path / "samples.npz")
    run, source = load(folder), EmojiCaptions()(told["captions"])
    wanted = crossflow.generate(run.field, source, steps=2, guidance=2.0, seed=[0, 1, 2])
    np.testing.assert_allclose(found["x"], wanted.numpy(), atol=1e-6)
    again = run.draw(3, caption=told["captions"], steps=2, solver="euler", guidance=2.0, seed=[0, 1, 2])
    torch.testing.assert_close(again, wanted)
    cold = crossflow.generate(run.field, source, steps=2, guidance=2.0, temperature=0.0)
    assert rheos(*words, "--caption", "red apple", "beer mug", "--temperature", "0", "--out", tmp_path).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], cold.numpy(), atol=1e-6)


def test_without_captions_those_of_held_out_rows_come_shuffled_once_for_all(rheos, emoji, tmp_path):
    folder = emoji("objective=CrossFlow", "field.net.net.width=8")
    assert rheos("sample", folder, "--n", "2", "--steps", "1", "--seed", "3", "--out", tmp_path).code == 0
    held = load_data(**{**load(folder).spec, "split": ["held_out", 0.2, 0]})
    with Image.open(tmp_path / "000004.png") as picture:
        row = int(Draws.training(2, 0, len(held)).permutation("rows")[4])
        assert picture.text["caption"] == held.columns["caption"][row]
        assert picture.text["row"] == str(row)
    assert rheos("sample", folder, "--n", "1", "--steps", "1", "--seed", "4", "--out", tmp_path / "one").code == 0
    assert (tmp_path / "000004.png").read_bytes() == (tmp_path / "one" / "000004.png").read_bytes()
    lines = json.loads(rheos("eval", folder, "--n", "20", "--steps", "1,2", "--json").out)["lines"]
    assert [line["network_calls"] for line in lines] == [0, 1, 2]
    told = json.loads(
        rheos("tune", folder, "--evaluations", "2", "--n", "4", "--solvers", "euler", "--grids", "uniform",
              "--caption", "red apple", "--json").out
    )  # fmt: skip
    assert "--caption 'red apple'" in told["commands"]["2"]


def test_captions_condition_a_flow_from_noise(rheos, emoji, tmp_path):
    folder = emoji("field.net.width=8")
    run = load(folder)
    assert run.field.conditions == {"embedding"}
    words = ("sample", folder, "--n", "2", "--steps", "2", "--format", "npz")
    assert rheos(*words, "--caption", "red apple", "--guidance", "2", "--out", tmp_path / "a").code == 0
    assert rheos(*words, "--caption", "none", "--out", tmp_path / "b").code == 0
    a, b = (np.load(tmp_path / name / "samples.npz") for name in "ab")
    assert a["caption"].tolist() == ["red apple", "red apple"]
    wanted = run.draw(2, steps=2, seed=[0, 1])
    np.testing.assert_allclose(b["x"], wanted.numpy(), atol=1e-6)


def test_what_has_no_use_here_is_refused(rheos, digits_run, emoji):
    folder = emoji("field.net.width=8")
    for words, text in (
        (("sample", digits_run, "--caption", "nine"), "--caption is for flows of captions"),
        (("sample", digits_run, "--given", "digits"), "this one needs none"),
        (("sample", folder, "--label", "3"), "takes no label"),
        (("sample", folder, "--caption", "a purple cow"), "'a purple cow'"),
        (("sample", folder, "--caption", "none", "--guidance", "2"), "these have none"),
        (("label", digits_run), "reads no labels"),
        (("label", digits_run, "--draws", "0"), "--draws must be at least 1"),
    ):
        result = rheos(*words)
        assert result.code == 2
        assert text in result.err


def test_a_flow_of_pairs_generates_from_labels_and_reads_them(rheos, tmp_path):
    folder = trained(rheos, tmp_path / "run", "digits", "data.limit=200", "objective=SymmFlow", "field.net.net.width=8")
    words = ("sample", folder, "--n", "3", "--steps", "2", "--solver", "euler", "--out", tmp_path / "x", "--json")
    told = json.loads(rheos(*words, "--format", "npz", "--seed", "4").out)
    assert told["labels"] == [4, 5, 6]
    run = load(folder)
    wanted = symmflow.generate(run.field, torch.tensor([4, 5, 6]), steps=2, seed=[4, 5, 6])
    np.testing.assert_allclose(np.load(tmp_path / "x" / "samples.npz")["x"], wanted.numpy(), atol=1e-6)
    assert rheos("sample", folder, "--label", "none").code == 2
    told = json.loads(rheos("label", folder, "--draws", "2", "--batch", "7", "--json").out)
    held = load_data(**{**run.spec, "split": ["held_out", 0.2, 0]})
    x, seeds = held.batch(torch.arange(len(held))).x, list(range(len(held)))
    read = symmflow.read(run.field, x, draws=2, seed=seeds)
    table = list(csv.DictReader(Path(told["files"][0]).read_text().splitlines()))
    assert [int(row["label"]) for row in table] == read.labels.tolist()
    assert told["accuracy"] == pytest.approx((read.labels == held.columns["label"]).double().mean().item())


def test_a_flow_of_pictures_and_masks_takes_and_gives_masks(rheos, scenes, tmp_path):
    made = ("data.masks=" + str(scenes / "masks"), "objective=SymmFlow", "objective.column=mask")
    folder = trained(rheos, tmp_path / "run", scenes / "pictures", *made, "field.net.net.width=8")
    words = ("sample", folder, "--n", "2", "--steps", "2", "--solver", "euler", "--format", "npz")
    assert rheos(*words, "--given", scenes / "masks", "--out", tmp_path / "a").code == 0
    masks = load_data(scenes / "pictures", masks=scenes / "masks").columns["mask"]
    wanted = symmflow.generate(load(folder).field, masks[:2], steps=2, seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "a" / "samples.npz")["x"], wanted.numpy(), atol=1e-6)
    told = json.loads(rheos("label", folder, scenes / "pictures", "--out", tmp_path / "read", "--json").out)
    assert len(told["files"]) == 20
    with Image.open(tmp_path / "read" / "07.png") as picture:
        assert picture.size == (8, 8)
        assert int(np.asarray(picture).max()) <= 2
    told = json.loads(rheos("label", folder, "--json").out)
    assert 0 <= told["mean_iou"] <= 1


def test_masks_condition_a_flow_from_noise(rheos, scenes, tmp_path):
    folder = trained(rheos, tmp_path / "run", scenes / "pictures", "data.masks=" + str(scenes / "masks"))
    run = load(folder)
    assert run.field.conditions == {"mask"}
    words = ("sample", folder, "--n", "2", "--steps", "1", "--guidance", "2", "--format", "npz", "--out", tmp_path)
    assert rheos(*words, "--given", scenes / "masks").code == 0
    masks = load_data(scenes / "pictures", masks=scenes / "masks").columns["mask"]
    wanted = run.draw(2, mask=masks[:2], steps=1, guidance=2.0, seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], wanted.numpy(), atol=1e-6)


def test_small_pictures_flow_to_large_ones(rheos, tmp_path):
    x = load_data("digits", limit=40).batch(torch.arange(40)).x
    small = torch.nn.functional.avg_pool2d(x, 2)
    np.savez(tmp_path / "pairs.npz", x=x.numpy(), small=small.numpy())
    losses = ("objective.losses.kl=0", "objective.losses.contrastive=0", "objective.unconditional=0")
    about = ("data.range=[-1, 1]", 'data.conditions=["small"]', "objective=CrossFlow", "objective.source=small")
    folder = trained(rheos, tmp_path / "run", tmp_path / "pairs.npz", *about, *losses, "field.net.net.width=8")
    run = load(folder)
    assert type(run.field.net.encoder).__name__ == "Upsampled"
    words = ("sample", folder, "--n", "2", "--steps", "2", "--solver", "euler", "--format", "npz", "--out", tmp_path)
    assert rheos(*words, "--given", tmp_path / "pairs.npz").code == 0
    wanted = crossflow.generate(run.field, small[:2], steps=2, seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], wanted.numpy(), atol=1e-6)


def test_a_source_that_is_no_noise_is_begun_at(rheos, tmp_path):
    folder = trained(rheos, tmp_path / "run", "moons", "data.limit=100", "objective.source=uniform")
    assert rheos("sample", folder, "--n", "5", "--steps", "3", "--out", tmp_path).code == 0
    start = Uniform()(torch.zeros(5, 2), {}, Draws(torch.arange(5)))
    wanted = draw(load(folder).field, 5, steps=3, solver="heun", source=start)
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], wanted.numpy(), atol=1e-6)


@pytest.fixture
def coloured(tmp_path):
    """Pictures of two classes whose names are numbers, with captions; a function that adds some."""
    home = tmp_path / "coloured"

    def add(name, rows):
        folder = home / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in rows:
            Image.new("RGB", (8, 8), (200, k, 0)).save(folder / f"{k:02d}.png")
            (folder / f"{k:02d}.txt").write_text(f"{'red' if name == '2' else 'green'} {k % 3}", encoding="utf-8")

    add("2", range(12))
    add("5", range(12, 24))
    home.mkdir(exist_ok=True)
    return home, add


def test_labels_beside_other_columns_are_those_of_the_same_rows(rheos, tmp_path):
    rng, names = np.random.default_rng(0), np.array(["a", "b", "c"])
    label = rng.integers(0, 3, 40)
    x = rng.integers(0, 255, (40, 3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", x=x, embedding=np.eye(3, dtype=np.float32)[label], label=names[label])
    both = ('data.conditions=["embedding", "label"]', "field.net.width=8")
    folder = trained(rheos, tmp_path / "run", tmp_path / "rows.npz", *both)
    words = ("sample", folder, "--n", "3", "--steps", "1", "--out", tmp_path, "--json")
    held = load(folder).held_out()
    order = Draws.training(2, 0, len(held)).permutation("rows")
    labels = held.columns["label"][order[torch.arange(1, 4) % len(held)]]
    assert torch.equal(held.columns["embedding"].argmax(1), held.columns["label"])
    assert json.loads(rheos(*words, "--seed", "1").out)["labels"] == labels.tolist()
    assert json.loads(rheos(*words, "--label", "b").out)["labels"] == [1, 1, 1]


def test_a_class_that_is_called_a_number_is_meant_by_its_name(rheos, coloured, tmp_path):
    home, _ = coloured
    folder = trained(rheos, tmp_path / "run", home, "field.net.width=8")
    words = ("sample", folder, "--n", "1", "--steps", "1", "--out", tmp_path, "--json")
    assert json.loads(rheos(*words, "--label", "5").out)["labels"] == [1]
    with Image.open(tmp_path / "000000.png") as picture:
        assert picture.text["label"] == "5"
    result = rheos(*words, "--label", "0")
    assert result.code == 2
    assert "label '0' is unknown" in result.err


def test_data_that_changed_hold_other_rows_out_and_are_refused(rheos, coloured, tmp_path):
    home, add = coloured
    folder = trained(rheos, tmp_path / "run", home, "objective=SymmFlow", "field.net.net.width=8")
    assert rheos("label", folder).code == 0
    add("2", range(30, 36))
    for verb in ("label", "eval"):
        result = rheos(verb, folder)
        assert result.code == 2
        assert "has changed since this run" in result.err


def test_given_rows_go_by_seed_and_are_brought_to_the_runs_size(rheos, scenes, tmp_path):
    made = ("data.masks=" + str(scenes / "masks"), "objective=SymmFlow", "objective.column=mask")
    folder = trained(rheos, tmp_path / "run", scenes / "pictures", *made, "field.net.net.width=8")
    words = ("sample", folder, "--steps", "1", "--given", scenes / "masks")
    assert rheos(*words, "--n", "5", "--out", tmp_path / "a").code == 0
    assert rheos(*words, "--n", "1", "--seed", "3", "--out", tmp_path / "b").code == 0
    assert (tmp_path / "a" / "000003.png").read_bytes() == (tmp_path / "b" / "000003.png").read_bytes()
    with Image.open(tmp_path / "b" / "000003.png") as picture:
        assert picture.text["given"] == str(scenes / "masks")
    large = tmp_path / "large"
    large.mkdir()
    Image.new("L", (40, 24), 90).save(large / "grey.png")
    assert rheos("label", folder, large, "--out", tmp_path / "read").code == 0
    with Image.open(tmp_path / "read" / "grey.png") as picture:
        assert picture.size == (8, 8)


def test_pairs_begin_at_a_file_of_sources_alone(rheos, tmp_path):
    x = load_data("digits", limit=40).batch(torch.arange(40)).x
    small = torch.nn.functional.avg_pool2d(x, 2)
    np.savez(tmp_path / "pairs.npz", x=x.numpy(), small=small.numpy())
    np.savez(tmp_path / "small.npz", small=small[:3].numpy())
    losses = ("objective.losses.kl=0", "objective.losses.contrastive=0", "objective.unconditional=0")
    about = ("data.range=[-1, 1]", 'data.conditions=["small"]', "objective=CrossFlow", "objective.source=small")
    folder = trained(rheos, tmp_path / "run", tmp_path / "pairs.npz", *about, *losses, "field.net.net.width=8")
    words = ("sample", folder, "--n", "2", "--steps", "1", "--format", "npz")
    for name in ("pairs", "small"):
        assert rheos(*words, "--given", tmp_path / f"{name}.npz", "--out", tmp_path / name).code == 0
    a, b = (np.load(tmp_path / name / "samples.npz")["x"] for name in ("pairs", "small"))
    np.testing.assert_array_equal(a, b)


def test_what_is_no_flow_or_has_no_noise_is_said_before_any_work(rheos, emoji, tmp_path):
    coder = trained(rheos, tmp_path / "ae", "digits", "data.limit=60", "objective=Autoencoding", "field.net.width=8")
    for verb in ("sample", "eval", "tune", "distill", "label"):
        result = rheos(verb, coder)
        assert result.code == 2
        assert "is an autoencoder, no flow" in result.err
    folder = emoji("objective=CrossFlow", "field.net.net.width=8")
    result = rheos("distill", folder)
    assert (result.code, result.out) == (2, "")
    assert "does not begin at noise" in result.err
    result = rheos("sample", folder, "--caption", "none")
    assert result.code == 2
    assert "there is none without" in result.err


def test_a_flow_of_captions_is_distilled_with_its_captions(rheos, tmp_path):
    words = ("data.embed=emoji", "data.limit=400", "data.size=8", "field.net.width=8")
    folder = trained(rheos, tmp_path / "run", "emoji", *words)
    result = rheos(
        "distill", folder, "--methods", "reflow", "--evaluations", "1", "--budget", "3s", "--n", "20", "--json"
    )
    assert result.code == 0, result.err
    winner = folder / "distill" / "winner-1"
    told = json.loads(rheos("sample", winner, "--n", "2", "--caption", "red apple", "--out", tmp_path, "--json").out)
    assert told["captions"] == ["red apple", "red apple"]
    assert json.loads(rheos("sample", winner, "--n", "2", "--out", tmp_path, "--json").out)["captions"] is not None


@pytest.fixture
def animals(tmp_path):
    """Pictures of 8 x 8 in two classes, whose names are the captions."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for k in range(12):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(tmp_path / "animals" / name / f"{k}.png")
    return tmp_path / "animals"


def test_letters_and_tokens_begin_a_cross_modal_flow(rheos, animals, tmp_path, monkeypatch):
    folder = trained(rheos, tmp_path / "letters", animals, "data.embed=letters:5", *CROSS)
    assert type(load(folder).field.net.encoder).__name__ == "VectorEncoder"
    words = ("--n", "2", "--steps", "2", "--solver", "euler", "--format", "npz")
    assert rheos("sample", folder, *words, "--caption", "a cat", "--out", tmp_path / "x").code == 0
    _tiny_clip(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    folder = trained(rheos, tmp_path / "tokens", animals, "data.embed=clip:clip", *CROSS)
    run = load(folder)
    assert type(run.field.net.encoder).__name__ == "TokenEncoder"
    assert run.origin["embed"] == f"clip:{tmp_path / 'clip'}"
    monkeypatch.chdir("/")
    assert rheos("sample", folder, *words, "--caption", "cat", "a dog", "--out", tmp_path / "y").code == 0
    source, mask = CLIPText(tmp_path / "clip")(["cat", "a dog"])
    wanted = crossflow.generate(run.field, source, mask, steps=2, seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "y" / "samples.npz")["x"], wanted.numpy(), atol=1e-6)
    other = crossflow.generate(run.field, source, torch.ones_like(mask), steps=2, seed=[0, 1])
    assert not torch.allclose(other, wanted)
    assert rheos("sample", folder, "--n", "2", "--steps", "1", "--out", tmp_path / "z").code == 0  # of held-out rows


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("data.embed=5", "embed must be the name"),
        ('data.embed={"kind": "x"}', "embed must be the name"),
        ("data.embed=letters:2", "letters:2:cut"),
    ],
)
def test_embedders_that_do_not_go_are_refused(rheos, animals, change, text):
    result = rheos("train", "--data", animals, "--dry-run", "--set", change)
    assert result.code == 2
    assert text in result.err


def _tiny_clip(path):
    """A folder with a tiny random text model of the CLIP kind."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "cat", "dog"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=6, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, eos_token_id=1, pad_token_id=0, bos_token_id=3,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(path)
