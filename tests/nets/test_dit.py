import math

import pytest
import torch

from rheos.core.errors import OptionError, ShapeError
from rheos.nets import DiT
from rheos.nets.dit import positions


def test_positions_are_sines_and_cosines_of_row_and_column():
    table = positions(3, 5, 8).reshape(3, 5, 8)
    for row in range(3):
        for column in range(5):
            waves = [f(p * w) for p in (row, column) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
            assert table[row, column].tolist() == pytest.approx(waves, abs=1e-6)


def test_positions_of_a_transposed_grid_swap_row_and_column():
    one, other = positions(3, 5, 8).reshape(3, 5, 8), positions(5, 3, 8).reshape(5, 3, 8)
    assert torch.equal(one, other.transpose(0, 1).roll(4, 2))


def test_every_place_of_a_grid_has_its_own_position():
    table = positions(16, 24, 32)
    assert torch.cdist(table, table).add(torch.eye(16 * 24) * 9).min() > 0.1


def test_without_positions_moving_patches_moves_the_output(awake):
    net = awake(DiT(2, (4, 8), dim=16, depth=2, heads=2))
    net.position.zero_()
    x, t = torch.randn(2, 2, 4, 8, dtype=torch.float64), torch.rand(2)
    torch.testing.assert_close(net(x.roll((2, 4), (2, 3)), t), net(x, t).roll((2, 4), (2, 3)), rtol=0, atol=1e-12)
    assert not torch.allclose(net(x.roll(1, 3), t), net(x, t).roll(1, 3))


def test_with_positions_it_does_not(awake):
    net = awake(DiT(2, (4, 8), dim=16, depth=2, heads=2))
    x, t = torch.randn(2, 2, 4, 8, dtype=torch.float64), torch.rand(2)
    assert (net(x.roll(2, 3), t) - net(x, t).roll(2, 3)).abs().max() > 1e-3


def test_each_patch_of_the_output_is_one_tokens():
    net = DiT(3, (4, 6), dim=16, depth=1, heads=2)
    with torch.no_grad():
        net.leave.weight.zero_()
        net.leave.bias.copy_(torch.arange(12.0))
    out = net(torch.zeros(1, 3, 4, 6), torch.zeros(1))
    tile = torch.arange(12.0).reshape(1, 3, 2, 2)
    assert torch.equal(out, tile.repeat(1, 1, 2, 3))


def test_the_order_of_text_tokens_says_nothing_and_their_content_does(awake):
    net = awake(DiT(1, 4, dim=16, depth=2, heads=2, tokens=3, token_dim=5))
    x, t, tokens = torch.randn(2, 1, 4, 4).double(), torch.rand(2), torch.randn(2, 3, 5).double()
    out = net(x, t, tokens=tokens)
    torch.testing.assert_close(net(x, t, tokens=tokens.flip(1)), out, rtol=0, atol=1e-12)
    assert (net(x, t, tokens=-tokens) - out).abs().max() > 1e-3


def test_self_attention_sees_the_picture_and_cross_attention_the_text(awake):
    net = awake(DiT(1, (4, 8), dim=16, depth=1, heads=2, tokens=3, token_dim=5))
    seen = {}

    def tap(name, q, k, v, inner):
        seen[name] = (q.shape[2], k.shape[2])
        return inner(q, k, v)

    net(torch.zeros(1, 1, 4, 8).double(), torch.zeros(1), tokens=torch.zeros(1, 3, 5).double(), taps=(tap,))
    assert seen == {"blocks.0.self": (8, 8), "blocks.0.cross": (8, 3)}


def test_another_picture_size_is_refused():
    with pytest.raises(ShapeError, match=r"made for 4 x 8 pixels, got 8 x 4.*positions are fixed"):
        DiT(1, (4, 8), dim=16, depth=1)(torch.zeros(1, 1, 8, 4), torch.zeros(1))


def test_impossible_options_are_refused():
    with pytest.raises(OptionError, match="A patch of 3 must divide the picture, got 8 x 8"):
        DiT(1, 8, patch=3)
    with pytest.raises(OptionError, match=r"divisible by 4 .* and by heads=4, got 18"):
        DiT(1, 8, dim=18)
    with pytest.raises(OptionError, match="positive sizes"):
        DiT(1, 8, depth=0)
