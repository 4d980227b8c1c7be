"""A second time for networks of diffusers: nothing is heard of it at first."""

import copy

import pytest
import torch
from torch import nn

from rheos.nets import TwoTimeAdapter

PLACES = {
    "plain_unet": ("model.time_embedding", (3, 8, 8), {}),
    "sd3": (
        "model.time_text_embed.timestep_embedder",
        (4, 8, 8),
        {"encoder_hidden_states": (2, 3, 16), "pooled_projections": (2, 8)},
    ),
    "wan": ("model.condition_embedder.time_embedder", (4, 2, 4, 4), {"encoder_hidden_states": (2, 3, 16)}),
}


class Called(nn.Module):
    """A network of diffusers as net(x, t), with fixed texts."""

    def __init__(self, model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.model = model
        g = torch.Generator().manual_seed(0)
        self.texts = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.model(x, timestep=1000 * t, **self.texts).sample


@pytest.mark.parametrize("name", PLACES)
def test_a_network_of_diffusers_begins_as_itself_and_learns_to_hear_the_length(name, request):
    at, shape, texts = PLACES[name]
    base = Called(request.getfixturevalue(name), texts)
    adapted = TwoTimeAdapter(copy.deepcopy(base), at=at)
    g = torch.Generator().manual_seed(1)
    x, s = torch.randn(2, *shape, generator=g), torch.tensor([0.1, 0.5])
    with torch.no_grad():
        before = base(x, s)
        assert torch.equal(adapted(x, s, torch.ones(2)), before)
        for p in adapted.length.parameters():
            p.add_(torch.randn(p.shape, generator=g))
        assert not torch.allclose(adapted(x, s, torch.ones(2)), before)
        assert torch.equal(adapted.net(x, s), before)  # alone it hears nothing
