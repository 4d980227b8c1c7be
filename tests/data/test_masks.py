"""Masks beside pictures: paired by name, cut like them, and never blurred."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.core import Draws, row_seeds
from rheos.core.errors import DataError, OptionError
from rheos.data import Data, load
from rheos.data.masks import read_masks, resize_masks
from rheos.data.palette import check_classes, count_classes


def picture(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [9] * 759)
    image.save(path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six pictures of 8 x 8 whose grey value is 100 times the class of the mask."""
    rng = np.random.default_rng(0)
    for k in range(6):
        mask = rng.integers(0, 3, (8, 8))
        picture(tmp_path / "pictures" / f"sub/{k}.png", mask * 100)
        picture(tmp_path / "masks" / f"sub/{k}.png", mask, palette=k == 0)
    return tmp_path


def test_masks_are_paired_by_path_and_hold_their_numbers(home: Path) -> None:
    data = load(home / "pictures", masks=home / "masks")
    assert data.conditions == ("mask",)
    mask = data.batch(torch.arange(6)).cond["mask"]
    assert mask.dtype == torch.int64
    assert torch.equal(mask * 100, data.x[:, 0].long())
    again = load(**data.spec)
    assert again.fingerprint == data.fingerprint
    few = load(home / "pictures", masks=home / "masks", limit=3)
    assert torch.equal(few.columns["mask"] * 100, few.x[:, 0].long())  # type: ignore[operator]


def test_flips_turn_masks_with_their_pictures(home: Path) -> None:
    data = load(home / "pictures", masks=home / "masks", flip=True)
    plain, index = load(home / "pictures", masks=home / "masks"), torch.arange(6)
    batch = data.batch(index, Draws(row_seeds(0, 6)))
    still = plain.batch(index)
    turned = (batch.x != still.x).flatten(1).any(1)
    assert 0 < int(turned.sum()) < 6
    assert torch.equal(batch.cond["mask"] * 100, ((batch.x[:, 0] + 1) * 127.5).round().long())


def test_masks_are_scaled_and_cropped_like_pictures_by_the_nearest_pixel(tmp_path: Path) -> None:
    mask = np.repeat(np.repeat(np.arange(8).reshape(2, 4), 4, 0), 4, 1)  # blocks of 4 x 4, 8 x 16 pixels
    picture(tmp_path / "p/a.png", mask * 30)
    picture(tmp_path / "m/a.png", mask)
    data = load(tmp_path / "p", masks=tmp_path / "m", size=4)
    assert data.columns["mask"].tolist() == [np.repeat(np.repeat([[1, 2], [5, 6]], 2, 0), 2, 1).tolist()]  # type: ignore[union-attr]
    full = load(tmp_path / "p", masks=tmp_path / "m")
    assert full.shape == (1, 8, 16)
    assert torch.equal(full.resize(4).columns["mask"], data.columns["mask"])  # type: ignore[arg-type]
    assert torch.equal(full.resize(4).x, data.x) or full.resize(4).shape == data.shape


def test_enlarging_a_mask_repeats_its_pixels() -> None:
    mask = torch.tensor([[[0, 1], [2, 3]]])
    assert torch.equal(resize_masks(mask, (4, 4)), mask.repeat_interleave(2, 1).repeat_interleave(2, 2))
    data = Data(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), {"mask": mask})
    assert data.resize(2) is data


def test_black_and_white_masks_are_two_classes_and_colours_are_numbered_in_order(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.array([[0, 255], [255, 0]]))
    masks, palette, notes = read_masks(tmp_path, ["a.jpg"], (2, 2))
    assert palette == (0, 255)
    assert masks.tolist() == [[[0, 1], [1, 0]]]
    assert "0 and 255" in notes[0]
    picture(tmp_path / "b.png", np.array([[[0, 0, 9], [200, 0, 0]], [[0, 0, 9], [0, 50, 0]]]))
    masks, palette, notes = read_masks(tmp_path, ["b.png"], (2, 2))
    assert palette == ("#000009", "#003200", "#c80000")
    assert masks.tolist() == [[[0, 2], [0, 1]]]
    assert "0..2: #000009, #003200, #c80000" in notes[0]


def test_missing_mixed_broken_and_smooth_masks_are_refused(home: Path) -> None:
    (home / "masks/sub/3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 pictures have no mask.*'sub/3.png'"):
        load(home / "pictures", masks=home / "masks")
    picture(home / "masks/sub/3.png", np.zeros((8, 8, 3)))
    with pytest.raises(DataError, match="some in colour"):
        load(home / "pictures", masks=home / "masks")
    (home / "masks/sub/3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3.png cannot be read"):
        load(home / "pictures", masks=home / "masks")
    picture(home / "smooth/a.png", np.random.default_rng(0).integers(0, 255, (32, 32, 3)))
    with pytest.raises(DataError, match="too many to be classes"):
        read_masks(home / "smooth", ["a.png"], (32, 32))
    with pytest.raises(DataError, match="no folder"):
        load(home / "pictures", masks=home / "nowhere")
    with pytest.raises(OptionError, match="beside a folder of pictures only"):
        load("digits", masks=home / "masks")
    for source in (home / "nowhere", str(home / "nowhere"), "nowhere"):
        with pytest.raises(DataError, match=r"no folder .*nowhere of pictures"):
            load(source, masks=home / "masks")


BLACK, GREEN, RED, BLUE = (0, 0, 0), (0, 200, 0), (200, 0, 0), (0, 0, 200)


def beside(folder: Path, masks: list[np.ndarray]) -> Path:
    """Masks, which are their own pictures."""
    for k, mask in enumerate(masks):
        picture(folder / f"{k}.png", mask)
    return folder


def colours(*values: tuple[int, int, int]) -> np.ndarray:
    return np.array([values, values], dtype=np.uint8)


def test_other_masks_are_read_with_the_colours_of_the_first_ones(tmp_path: Path) -> None:
    first = beside(tmp_path / "a", [colours(BLACK, GREEN), colours(BLACK, RED)])
    data = load(first, masks=first)
    assert data.spec["palette"] == ["#000000", "#00c800", "#c80000"]
    assert load(**data.spec).fingerprint == data.fingerprint
    other = str(beside(tmp_path / "b", [colours(BLACK, RED)]))
    again = load(**{**data.spec, "source": other, "masks": other})
    assert again.columns["mask"].tolist() == [[[0, 2], [0, 2]]]  # type: ignore[union-attr]
    assert again.mask_classes == 3
    wrong = str(beside(tmp_path / "c", [colours(BLACK, BLUE)]))
    with pytest.raises(DataError, match=r"hold #0000c8, which is none of the classes 0..2: #000000, #00c800, #c80000"):
        load(**{**data.spec, "source": wrong, "masks": wrong})
    grey = str(beside(tmp_path / "d", [np.zeros((2, 2))]))
    with pytest.raises(DataError, match=r"are grey, but those of these classes are in colour"):
        load(**{**data.spec, "source": grey, "masks": grey})
    turned = load(first, masks=first, palette=["#C80000", "#000000", "#00c800"])
    assert turned.columns["mask"].tolist() == [[[1, 2], [1, 2]], [[1, 0], [1, 0]]]  # type: ignore[union-attr]


def test_black_and_white_stay_two_classes_in_masks_that_are_all_of_one(tmp_path: Path) -> None:
    first = beside(tmp_path / "a", [np.array([[0, 255], [255, 0]])])
    spec = load(first, masks=first).spec
    other = str(beside(tmp_path / "b", [np.full((2, 2), 255), np.zeros((2, 2))]))
    data = load(**{**spec, "source": other, "masks": other})
    assert data.columns["mask"].tolist() == [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]  # type: ignore[union-attr]
    wrong = str(beside(tmp_path / "c", [np.array([[0, 7], [9, 0]])]))
    with pytest.raises(DataError, match=r"hold 7 \(and 1 more\), which is none of the classes 0..1: 0, 255"):
        load(**{**spec, "source": wrong, "masks": wrong})
    with pytest.raises(DataError, match=r"hold 255 alone, .*palette=\[0, 255\]"):
        load(beside(tmp_path / "d", [np.full((2, 2), 255)]), masks=tmp_path / "d")


def test_class_numbers_keep_their_meaning_and_255_is_no_class(tmp_path: Path) -> None:
    first = beside(tmp_path / "a", [np.array([[0, 1], [3, 255]])])
    data = load(first, masks=first)
    assert data.spec["palette"] == 4
    other = str(beside(tmp_path / "b", [np.array([[0, 255], [255, 0]])]))
    again = load(**{**data.spec, "source": other, "masks": other})
    assert again.columns["mask"].tolist() == [[[0, 255], [255, 0]]]  # type: ignore[union-attr]
    wrong = str(beside(tmp_path / "c", [np.array([[0, 4], [0, 0]])]))
    with pytest.raises(DataError, match=r"hold the number 4, but the classes are 0 .. 3 \(and 255 for none\)"):
        load(**{**data.spec, "source": wrong, "masks": wrong})
    grey = load(first, masks=first, palette=[3, 0, 1])
    assert grey.columns["mask"].tolist() == [[[1, 2], [0, 255]]]  # type: ignore[union-attr]


def test_parts_know_the_classes_of_the_whole_set(home: Path) -> None:
    masks = torch.zeros(20, 4, 4, dtype=torch.int64)
    masks[3] = 6
    masks[4] = 255
    whole = Data(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), {"mask": masks}, conditions=("mask",))
    assert whole.mask_classes == 7
    for part in (*whole.split(0.5), whole.subset(torch.tensor([0, 1])), whole.resize(2).split()[0]):
        assert part.mask_classes == 7
    train = load(home / "pictures", masks=home / "masks", split=["train", 0.5, 0])
    assert train.mask_classes == load(**train.spec).mask_classes == 3
    assert load("digits", limit=20).mask_classes == 0
    named = load({"x": whole.x, "mask": masks}, palette=9, split="train")
    assert named.mask_classes == 9
    with pytest.raises(DataError, match=r"hold the number 6, but the classes are 0 .. 4"):
        load(whole, palette=5)


@pytest.mark.untyped
@pytest.mark.parametrize(
    "value", [0, True, [], "#000000", ["#00"], [0, 0], [0, "#000000"], [-1], list(range(256)), 1.5]
)
def test_palettes_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(OptionError, match="palette must be the number of classes"):
        load("digits", palette=value)  # type: ignore[arg-type]


def test_a_palette_without_masks_is_refused() -> None:
    with pytest.raises(OptionError, match=r"no column 'mask'\. Give masks="):
        load("digits", palette=3)


def test_numbers_above_255_are_classes() -> None:
    assert count_classes(torch.tensor([[[0, 255, 300]]])) == 301
    check_classes(torch.tensor([[[0, 255, 300]]]), 301, "They")
    assert count_classes(torch.full((1, 2, 2), 255)) == 0
    assert count_classes(torch.zeros(1, 2, 2)) == 0
