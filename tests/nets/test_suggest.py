import pytest
import torch

from rheos.core.errors import ShapeError
from rheos.nets import suggest


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 28), (3, 32, 48), (1, 7, 8), (1, 3, 3), (2,), (64,)])
def test_the_suggested_network_takes_what_it_was_suggested_for(shape):
    net = suggest(shape, classes=3)
    x = torch.zeros(2, *shape)
    assert net(x, torch.rand(2), label=net.null("label", 2)).shape == x.shape


def test_sides_are_halved_as_long_as_four_pixels_remain():
    depth = {n: len(suggest((1, n, n)).config["multipliers"]) for n in (4, 8, 12, 16, 28, 32, 256)}
    assert depth == {4: 1, 8: 2, 12: 2, 16: 3, 28: 3, 32: 4, 256: 4}


def test_what_is_neither_picture_nor_vector_has_no_suggestion():
    with pytest.raises(ShapeError, match=r"pictures \(C, H, W\) and vectors \(D,\), got \(3, 8, 16, 16\)"):
        suggest((3, 8, 16, 16))
