"""Networks that read prompts and decode samples by themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rheos import nets, train
from rheos.core import Field, FlowMatching
from rheos.core.base import Cond
from rheos.data import load
from rheos.nets import Net
from rheos.train.prompted import prompted


class Halves(nets.MLP):
    """A prompt is its length, and a sample's picture is half of it."""

    delivers = (-2.0, 2.0)
    surrounded = True

    def encode_prompt(self, prompt: str | Sequence[str], shape: tuple[int, ...] | None = None) -> Cond:
        return {"label": torch.tensor([len(p) % 2 for p in ([prompt] if isinstance(prompt, str) else prompt)])}

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2


def run(net: Net) -> train.Run:
    options = train.Options(batch=4, sample_every=0, save_every=0)
    return train.fit(Field(net), FlowMatching(), load("digits", limit=20), steps=1, options=options, progress=False)


def test_a_run_of_such_a_network_reads_captions_and_decodes_by_it() -> None:
    made = run(Halves(64, hidden=8, depth=1, classes=10))
    assert made.value_range == (-2.0, 2.0)
    assert torch.equal(made.decode(torch.ones(1, 1, 8, 8)), torch.full((1, 1, 8, 8), 0.5))
    assert torch.equal(made.draw(2, caption=["a", "at"]), made.draw(2, label=torch.tensor([1, 0])))


def test_a_network_alone_or_of_another_kind_reads_nothing() -> None:
    net = Halves(64, hidden=8, depth=1, classes=10)
    assert prompted(Field(net)) is net
    made = run(net)
    net.surrounded = made.field.net.surrounded = False  # type: ignore[assignment]
    assert prompted(Field(net)) is None
    assert made.prompted is None
    made.field.net.surrounded = True  # type: ignore[assignment]  # a pipeline was put around it
    assert made.prompted is made.field.net
    assert run(nets.MLP(64, hidden=8, depth=1, classes=10)).prompted is None
