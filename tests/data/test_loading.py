"""`load`: one call for every source, and its values come back from a run's config.json."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import rheos.data
from rheos.core.errors import DataError, MissingExtraError, OptionError, ShapeError, UnknownOptionError
from rheos.data import SOURCES, Data, load
from rheos.data.toys import TOYS


def test_the_room_shows_these_names():
    names = ["SOURCES", "About", "Batch", "CLIPText", "Coded", "Data", "EmojiCaptions", "Functions", "Holes"]
    names += ["LatentCodec", "Latents", "Letters", "MiniLM", "T5Text", "check_range"]
    names += ["embedded", "embedder", "encoded", "load", "save", "toy"]
    assert rheos.data.__all__ == names
    assert callable(rheos.data.load)
    assert SOURCES[:4] == ("digits", "mnist5k", "emoji", "photos")


@pytest.mark.parametrize("name", SOURCES)
def test_every_named_set_comes_back_from_its_spec_written_as_json(name):
    options = (
        {"limit": 60} if name in TOYS else {"limit": 60, "size": 8, "flip": True, "colour": "grey", "conditions": []}
    )
    data = load(name, split=("held_out", 0.3, 5), **options)
    spec = json.loads(json.dumps(data.spec))
    again = load(**spec)
    assert len(data) == 18
    assert again.fingerprint == data.fingerprint
    assert (again.spec, again.flip, again.conditions) == (data.spec, data.flip, data.conditions)


def test_both_parts_of_a_split_come_back_from_their_specs():
    for part in (*load("digits").split(), *load("digits").split(0.25, seed=2)):
        assert load(**json.loads(json.dumps(part.spec))).fingerprint == part.fingerprint


def test_a_part_of_a_part_or_a_subset_cannot_be_read_again_and_says_so():
    data = load("digits")
    for part in (data.split()[0].split()[0], data.where(3), data.limit(10), data.resize(5), load(data, size=5)):
        assert part.spec["source"] is None
        with pytest.raises(DataError, match=r"made in memory.*rheos\.data\.save"):
            load(**part.spec)


def test_a_set_passes_through_and_takes_further_options():
    data = load("digits", split="train")
    assert load(data) is data
    assert load(data, flip=True).flip
    assert load(**load(data, flip=True).spec).fingerprint == data.fingerprint
    assert load(data, size=5, colour="rgb", limit=20, split="train").x.shape == (18, 3, 5, 5)
    assert load(load("digits"), split="train").spec == data.spec


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(UnknownOptionError, match="source 'emojis' is unknown; did you mean 'emoji'"):
        load("emojis")
    with pytest.raises(DataError, match=r"There is no file or folder pictures.x\.npy"):
        load("pictures/x.npy")


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(load("digits")) == 1797
    with pytest.raises(DataError, match="is empty"):
        load("./digits")


@pytest.mark.parametrize("source", [3, [], [1, 2], object()])
def test_other_things_are_no_data(source):
    with pytest.raises(DataError, match=f"Data cannot be read from {type(source).__name__}"):
        load(source)


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        ("digits", {"range": (0, 1)}, OptionError, "range is only for arrays"),
        ("digits", {"skip_corrupt": True}, OptionError, "skip_corrupt is only for folders"),
        ("digits", {"download": True}, OptionError, "download is only for hf: sources"),
        ("moons", {"size": 8}, ShapeError, "Only pictures"),
        ("moons", {"flip": True}, OptionError, "flip mirrors pictures"),
        ("moons", {"colour": "rgb"}, ShapeError, "Only pictures"),
        ("digits", {"size": 0}, OptionError, "size must be a whole number of at least 1, got 0"),
        ("digits", {"limit": -1}, OptionError, "limit must be a whole number"),
        ("digits", {"colour": "gray"}, UnknownOptionError, "did you mean 'grey'"),
        ("digits", {"split": "test"}, UnknownOptionError, "split 'test' is unknown.*Known: train, held_out"),
        ("digits", {"split": ("train", 0.1)}, OptionError, r"split must be .* or \(part, fraction, seed\)"),
        ("digits", {"split": ("train", 2.0, 0)}, OptionError, r"fraction must lie between 0 and 1, got 2\.0"),
        ("digits", {"conditions": "label"}, OptionError, "conditions must be a list of column names, got 'label'"),
        ("digits", {"conditions": ["lable"]}, UnknownOptionError, "did you mean 'label'"),
    ],
)
def test_an_option_that_is_wrong_or_would_be_ignored_is_refused(source, options, error, match):
    with pytest.raises(error, match=match):
        load(source, **options)


def test_a_hub_set_is_never_fetched_unasked():
    with pytest.raises(OptionError, match="only when told: pass download=True"):
        load("hf:someone/pictures")


def test_without_the_package_a_hub_set_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes the import fail
    with pytest.raises(MissingExtraError, match=r"'hf:someone/pictures' needs the package 'datasets'.*rheos\[hf\]"):
        load("hf:someone/pictures", download=True)


class Table:
    """A stand-in with the few members of a `datasets.Dataset` that are used."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name):
        return self.columns[name]

    def select(self, rows):
        return Table({k: [v[i] for i in rows] for k, v in self.columns.items()}, self.features)


class Value:
    pass


class ClassLabel:
    names = ("zebra", "ant")


def test_a_hub_table_becomes_pictures_labels_and_captions(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    columns = {"photo": [Image.fromarray(p) for p in pixels], "label": [0, 1, 1, 0], "text": list("abcd")}
    features = {"photo": type("Image", (), {})(), "label": ClassLabel(), "text": Value()}
    module = ModuleType("datasets")
    module.load_dataset = lambda name, split: Table(columns, features)
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = load("hf:someone/pictures", download=True, limit=3)
    assert torch.equal(data.x, torch.from_numpy(pixels[:3]).permute(0, 3, 1, 2))
    assert [data.class_names[i] for i in data.columns["label"]] == ["zebra", "ant", "ant"]
    assert data.columns["caption"] == ["a", "b", "c"]
    assert data.spec == {"source": "hf:someone/pictures", "limit": 3, "download": True}
    module.load_dataset = lambda name, split: Table({"text": ["a"]}, {"text": Value()})
    with pytest.raises(DataError, match=r"no picture column \(its columns: text\)"):
        load("hf:someone/pictures", download=True)


def test_a_resumed_walk_sees_the_batches_of_the_uninterrupted_one():
    from rheos.core.draws import Draws

    def batch(data, step):
        return data.batch(data.indices(7, step, 32), Draws.training(7, step, 32))

    first = load("digits", flip=True)
    straight = [batch(first, k) for k in range(6)]
    second = load(**json.loads(json.dumps(first.spec)))
    for k in (4, 5):
        again = batch(second, k)
        assert torch.equal(again.x, straight[k].x)
        assert torch.equal(again.cond["label"], straight[k].cond["label"])
    assert isinstance(second, Data)
