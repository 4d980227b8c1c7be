import pytest
import torch

from rheos.core.errors import ShapeError
from rheos.core.packed import masked_mean, pack, pad
from strategies import randn, untyped


def test_packing_undoes_padding():
    tokens, offsets = randn(7, 3), torch.tensor([0, 2, 2, 7])
    padded, mask = pad(tokens, offsets)
    assert padded.shape == (3, 5, 3)
    assert mask.sum(1).tolist() == [2, 0, 5]
    assert not bool(padded[~mask].any())
    again, back = pack(padded, mask)
    assert torch.equal(again, tokens)
    assert torch.equal(back, offsets)


def test_each_set_has_its_own_mean_whatever_the_padding_holds():
    values = randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    found = masked_mean(values, mask)
    torch.testing.assert_close(found, torch.stack((values[0, :2].mean(), values[1].mean())))
    values[0, 2:] = 1e9
    torch.testing.assert_close(masked_mean(values, mask), found)
    assert masked_mean(values, torch.zeros(2, 4, dtype=torch.bool)).tolist() == [0.0, 0.0]
    torch.testing.assert_close(masked_mean(values[..., 0], mask)[1], values[1, :, 0].mean())


@pytest.mark.parametrize("offsets", [[0, 2, 6], [1, 2, 7], [0, 5, 2, 7], [7]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ShapeError, match="offsets rise from 0 to the 7 tokens"):
        pad(randn(7, 3), offsets)


@untyped
def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"A mask of \(2, 3\) does not mark the tokens of \(2, 4, 3\)"):
        pack(randn(2, 4, 3), torch.ones(2, 3, dtype=torch.bool))
