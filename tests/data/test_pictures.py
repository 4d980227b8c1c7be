"""Pillow pictures of every kind become the same uint8 array."""

import numpy as np
import pytest
from PIL import Image

from rheos.core.errors import DataError
from rheos.data import load
from rheos.data.pictures import Header, common_shape, decode, header

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.stack((GREY, 255 - GREY, np.full_like(GREY, 77)), 2)


def test_grey_and_colour_are_read_pixel_by_pixel():
    assert np.array_equal(decode(Image.fromarray(GREY), 1, (6, 8))[0], GREY)
    assert np.array_equal(decode(Image.fromarray(COLOUR), 3, (6, 8)), COLOUR.transpose(2, 0, 1))
    assert np.array_equal(decode(Image.fromarray(GREY), 3, (6, 8)), np.stack([GREY] * 3))


def test_transparency_is_laid_on_white():
    alpha = np.array([[0, 128, 255]], dtype=np.uint8)
    rgba = np.concatenate((np.full((1, 3, 3), 50, np.uint8), alpha[..., None]), 2)
    white = np.round(50 * (alpha / 255) + 255 * (1 - alpha / 255))
    assert np.abs(decode(Image.fromarray(rgba), 3, (1, 3)) - white).max() <= 1
    grey_alpha = Image.merge("LA", (Image.fromarray(rgba[..., 0]), Image.fromarray(alpha)))
    assert np.abs(decode(grey_alpha, 1, (1, 3)) - white).max() <= 1


def test_a_transparent_palette_entry_is_white():
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    assert decode(picture, 3, (1, 2)).reshape(3, 2).T.tolist() == [[10, 20, 30], [40, 50, 60]]
    picture.info["transparency"] = 1
    assert decode(picture, 3, (1, 2)).reshape(3, 2).T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_keep_black_white_and_the_middle():
    deep = Image.fromarray(np.array([[0, 257 * 99, 65535]], dtype=np.uint16))
    assert decode(deep, 1, (1, 3)).tolist() == [[[0, 99, 255]]]
    assert header(deep).grey


def test_cmyk_becomes_rgb():
    cyan = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    assert decode(cyan, 3, (2, 2))[:, 0, 0].tolist() == [0, 255, 255]


def test_one_bit_pictures_become_black_and_white():
    assert decode(Image.fromarray(np.array([[True, False]])), 1, (1, 2)).tolist() == [[[255, 0]]]


@pytest.mark.parametrize(
    ("values", "match"),
    [(np.zeros((2, 2), np.float32), "floating numbers"), (np.full((2, 2), 70000, np.int32), "more than 16 bits")],
)
def test_numbers_that_are_no_picture_are_refused(values, match):
    with pytest.raises(DataError, match=match):
        decode(Image.fromarray(values), 1, (2, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_obeyed_and_the_header_knows(orientation, tmp_path):
    upright = np.zeros((4, 6), np.uint8)
    upright[0, 0], upright[0, 1] = 255, 128
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
              6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}[orientation]  # fmt: skip
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as opened:
        assert header(opened) == Header(4, 6, True)
        assert np.array_equal(decode(opened, 1, (4, 6))[0], upright)


def test_another_shape_is_the_scaled_centre():
    picture = Image.fromarray(COLOUR).resize((80, 60), Image.Resampling.NEAREST)
    assert np.array_equal(decode(picture, 3, (60, 60)), np.asarray(picture).transpose(2, 0, 1)[:, :, 10:70])
    halves = np.zeros((40, 80), np.uint8)
    halves[:, 40:] = 200
    small = decode(Image.fromarray(halves), 1, (10, 10))[0]
    assert small[:, :3].max() <= 8  # the filter reaches 3 / 4 of a pixel over the edge
    assert abs(int(small[5, 8]) - 200) <= 8


def test_a_large_jpeg_is_read_like_its_full_resolution(tmp_path):
    y, x = np.mgrid[0:400, 0:600] / 100
    full = Image.fromarray((127 + 60 * np.stack((np.sin(x), np.cos(y), np.sin(x + y)), 2)).astype(np.uint8))
    full.save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as opened:
        fast = decode(opened, 3, (20, 20)).astype(int)
    assert np.abs(fast - decode(full, 3, (20, 20)).astype(int)).max() <= 4  # JPEG's own loss


def test_the_common_shape_is_kept_and_the_exceptions_are_noted():
    same = [Header(6, 8, True)] * 3
    assert common_shape(same, None, 1) == ((6, 8), [])
    assert common_shape(same, 16, 1) == ((16, 16), [])
    shape, notes = common_shape([*same, Header(9, 9, True)], None, 1)
    assert shape == (6, 8)
    assert notes == ["3 of 4 pictures are 6 × 8 (height × width); the others were scaled and cropped to it."]


def test_mixed_shapes_are_read_at_32_and_that_is_noted():
    shape, notes = common_shape([Header(6, 8, True), Header(9, 9, True)], None, 1)
    assert shape == (32, 32)
    assert "2 shapes and none has a majority, so they were read at 32 × 32" in notes[0]


def test_too_much_memory_asks_for_a_size():
    photos = [Header(3000, 4000, False)] * 1000
    with pytest.raises(DataError, match=r"1000 pictures of 3000 × 4000 would take 34 GiB.*size=64"):
        common_shape(photos, None, 3)
    assert common_shape(photos, 64, 3)[0] == (64, 64)


def test_a_list_of_pictures_is_a_set():
    data = load([Image.fromarray(COLOUR), Image.fromarray(GREY)])
    assert data.shape == (3, 6, 8)
    assert np.array_equal(data.x[0].numpy(), COLOUR.transpose(2, 0, 1))
    assert load([Image.fromarray(GREY)] * 2).shape == (1, 6, 8)
    assert load([Image.fromarray(GREY)] * 2, colour="rgb", size=4).shape == (3, 4, 4)
    assert load([Image.fromarray(GREY), Image.fromarray(COLOUR).resize((9, 9))]).notes[0].startswith("The pictures")


def test_a_bad_picture_in_a_list_is_named():
    with pytest.raises(DataError, match="Picture 1 cannot be read: it holds floating numbers"):
        load([Image.fromarray(GREY), Image.fromarray(np.zeros((6, 8), np.float32))])
