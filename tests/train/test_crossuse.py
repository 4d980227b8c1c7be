"""What needs no trained field: sums of latents, and captions as columns."""

import pytest
import torch

from rheos.core.errors import OptionError, ShapeError
from rheos.train import crossflow


def test_latents_mix_on_a_line_and_add_like_vectors():
    a, b, c = torch.randn(3, 2, 2)
    line = crossflow.interpolate(a, b, 5)
    assert torch.equal(line[0], a)
    assert torch.equal(line[-1], b)
    torch.testing.assert_close(line[2], (a + b) / 2)
    torch.testing.assert_close(crossflow.combine((1, a), (-1, b), (1, c)), a - b + c)
    with pytest.raises(OptionError, match="at least 2"):
        crossflow.interpolate(a, b, 1)
    with pytest.raises(ShapeError, match="one shape"):
        crossflow.interpolate(a, b[0], 3)
    with pytest.raises(ShapeError, match="one shape"):
        crossflow.combine((1, a), (1, b[0]))
    with pytest.raises(OptionError, match="Nothing to add"):
        crossflow.combine()
