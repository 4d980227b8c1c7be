"""What needs no trained field: sums of latents, and captions as columns."""

import pytest
import torch

from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.data import About, Data
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


def test_captions_are_embedded_once_each_and_masks_travel_along():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return torch.randn(len(texts), 2, 3), torch.ones(len(texts), 2, dtype=torch.bool)

    one = Data(torch.zeros(3, 2), {"caption": ["b", "a", "b"], "label": torch.zeros(3).long()}, About("x", ("k",)))
    made = crossflow.embedded(one, embed, also=["label"])
    assert asked == ["b", "a"]
    assert torch.equal(made.columns["embedding"][0], made.columns["embedding"][2])
    assert set(made.batch(torch.tensor([0])).cond) == {"embedding", "embedding_mask", "label"}
    with pytest.raises(ConditionError, match="no column of text 'title'"):
        crossflow.embedded(one, embed, "title")
