import pytest
import torch
from torch import nn

from rheos.claims import splitmeanflow
from rheos.claims.memory import peak_bytes
from rheos.claims.teacher import bench
from rheos.core import Draws, Field, FlowMapField, FlowMatching, TwoTimes
from rheos.distill import FlowMapLoss
from rheos.nets import MLP


def test_methods_and_baseline_have_one_network_and_intervals_of_the_card():
    made = splitmeanflow.objectives(Field(MLP(64, hidden=8, depth=1)))
    assert list(made)[:4] == [splitmeanflow.BASELINE, splitmeanflow.SPLIT, "half-split", splitmeanflow.MEAN]
    assert made[splitmeanflow.SPLIT].times == TwoTimes("uniform", 0.5)
    assert made["MeanFlow"].times.equal == 0.75
    field = splitmeanflow.train(bench(), made[splitmeanflow.SPLIT], 1, 0)
    assert abs(sum(p.numel() for p in field.parameters()) - 0.30e6) < 0.01e6


def test_a_short_run_measures_all_figures():
    found = splitmeanflow.measure(steps=2, before=2, rows=64, seeds=(0,), progress=lambda line: None)
    assert len(found.distances) == 8
    assert all(len(values) == 1 for by in found.distances.values() for values in by.values())
    assert min(found.once(splitmeanflow.SPLIT)) > 0
    assert splitmeanflow.BASELINE not in found.agreement


class Linear(nn.Module):
    """u = a x + b (t - s): its derivative along v is a v - b."""

    conditions = frozenset()

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v)) for v in (0.5, 0.25))

    def forward(self, x, s, t):
        return self.a * x + self.b * (t - s)[:, None]


def test_the_published_step_has_the_loss_of_ours():
    field, loss = FlowMapField(Linear(), shape=(2,)), FlowMapLoss("jvp", TwoTimes("uniform", 0.5), FlowMatching())
    plan = loss.prepare(field, torch.randn(32, 2), {}, Draws.training(0, 0, 32))
    ours, theirs = loss.loss(field, plan).value, splitmeanflow.published_step(field, plan)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(v, field.net.a)[0] for v in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [3, 6])
def test_peak_memory_counts_what_is_kept_for_the_way_back(layers):
    x, weight = torch.randn(100, 50), torch.randn(50, 50, requires_grad=True)

    def forward():
        h = x
        for _ in range(layers):
            h = torch.tanh(h @ weight)
        return h

    # the results of tanh stay, a product lives until the next tanh
    assert peak_bytes(forward) == (layers + 1) * 100 * 50 * 4
    assert peak_bytes(lambda: None) == 0
