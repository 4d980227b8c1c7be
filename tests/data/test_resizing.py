"""Resizing and recolouring against Pillow and against what must not change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rheos.core.errors import DataError
from rheos.data.resizing import fit, recolour, resize

quick = settings(max_examples=25, deadline=None, derandomize=True)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@quick
@given(h=st.integers(1, 300), w=st.integers(1, 300), a=st.integers(1, 99), b=st.integers(1, 99))
def test_the_scaled_picture_covers_the_target_and_touches_one_side(h, w, a, b):
    (tall, wide), (top, left) = fit(h, w, (a, b))
    assert tall >= a
    assert wide >= b
    assert tall == a or wide == b
    assert 0 <= top <= tall - a
    assert 0 <= left <= wide - b


@pytest.mark.parametrize("size", [5, 16, 40])
def test_smooth_pictures_are_resized_as_by_pillow(size):
    y, x = torch.meshgrid(torch.linspace(0, 3, 24), torch.linspace(0, 3, 24), indexing="ij")
    smooth = (127 + 60 * torch.stack((y.sin(), x.cos(), (x + y).sin()))).to(torch.uint8)
    pillow = Image.fromarray(smooth.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
    ours = resize(smooth[None], size, None)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(pillow).astype(int)).max() <= 1  # Pillow rounds between its two passes


@quick
@given(value=st.integers(0, 255), h=st.integers(1, 20), w=st.integers(1, 20), size=st.integers(1, 24))
def test_a_uniform_picture_stays_uniform_at_any_size(value, h, w, size):
    x = torch.full((2, 3, h, w), value, dtype=torch.uint8)
    assert torch.equal(resize(x, size, None), torch.full((2, 3, size, size), value, dtype=torch.uint8))


def test_black_and_white_edges_do_not_wrap_around():
    x = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    x[..., 4:] = 255
    big = resize(x, 32, None)
    assert big[..., :12].max() <= 8
    assert big[..., 20:].min() >= 247


def test_the_centre_is_kept_and_many_rows_equal_one():
    x = noise(3000, 3, 6, 10)
    assert torch.equal(resize(x, 6, None), x[..., 2:8])
    small = resize(x, 3, None)
    assert torch.equal(small[2999:], resize(x[2999:], 3, None))


def test_floating_pictures_stay_in_their_range():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:] = 1.0
    y = resize(x, 32, (0.0, 1.0))
    assert y.dtype == torch.float32
    assert (y.min(), y.max()) == (0.0, 1.0)


def test_the_same_size_is_the_same_tensor():
    x = noise(2, 3, 8, 8)
    assert resize(x, 8, None) is x


def test_grey_is_pillows_luma_and_grey_in_colour_is_repeated():
    x = noise(5, 3, 16, 16)
    expected = [np.asarray(Image.fromarray(p.permute(1, 2, 0).numpy()).convert("L")) for p in x]
    grey = recolour(x, "grey")
    assert np.array_equal(grey[:, 0].numpy(), np.stack(expected))
    assert torch.equal(recolour(grey, "rgb"), grey.expand(-1, 3, -1, -1))
    assert recolour(grey, "grey") is grey
    assert torch.allclose(recolour(x.float(), "grey"), grey.float(), atol=0.51)


def test_four_channels_cannot_change_colour():
    with pytest.raises(DataError, match="these have 4"):
        recolour(noise(1, 4, 2, 2), "grey")
