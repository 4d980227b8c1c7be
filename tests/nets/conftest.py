from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rheos.nets import EDM, MLP, DiT, Net, UNet


class Case(NamedTuple):
    """One network of the conformance table."""

    make: Callable[[], Net]
    shape: tuple[int, ...]


CASES = {
    "mlp": Case(lambda: MLP(3, hidden=8), (3,)),
    "mlp of pictures": Case(lambda: MLP(12, hidden=8, classes=4, embedding=5), (3, 2, 2)),
    "residual mlp": Case(lambda: MLP(3, hidden=8, depth=2, residual=True, time_features=6, classes=4), (3,)),
    "bare residual mlp": Case(lambda: MLP(3, hidden=8, depth=2, residual=True), (3,)),
    "unet": Case(
        lambda: UNet(2, width=8, multipliers=(1, 2), attention=(0, -1), heads=2, classes=4, embedding=5, concat=1),
        (2, 4, 6),
    ),
    "dit": Case(lambda: DiT(2, (4, 8), dim=16, depth=2, heads=2, classes=4, tokens=3, token_dim=5), (2, 4, 8)),
    "dit with an embedding": Case(lambda: DiT(1, 4, dim=16, depth=2, heads=2, embedding=5), (1, 4, 4)),
    "edm": Case(
        lambda: EDM(UNet(1, width=8, multipliers=(1, 2), attention=(1,), heads=2, classes=4), "linear"), (1, 4, 4)
    ),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def awake() -> Callable[..., Net]:
    """A network whose zero-initialised layers were given random weights, so that outputs say something."""

    def wake(net: Net, seed: int = 0, dtype: torch.dtype = torch.float64) -> Net:
        generator = torch.Generator().manual_seed(seed)
        for p in net.parameters():
            p.data = torch.randn(p.shape, generator=generator) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
        return net.to(dtype).eval()

    return wake


@pytest.fixture
def batch() -> Callable[..., tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Random x, t and conditions for a network."""

    def draw(
        net: Net, shape: tuple[int, ...], rows: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        g = torch.Generator().manual_seed(seed)
        accepted = (net.net if isinstance(net, EDM) else net)._conditions
        cond = {}
        for name in sorted(net.conditions):
            null = net.null(name, rows)
            if name == "label":
                cond[name] = torch.randint(accepted.classes, (rows,), generator=g)
            else:
                size = (rows, null.shape[1], *shape[1:]) if name == "concat" else null.shape
                cond[name] = torch.randn(size, generator=g, dtype=torch.float64).to(dtype)
        x = torch.randn(rows, *shape, generator=g, dtype=torch.float64).to(dtype)
        return x, torch.rand(rows, generator=g, dtype=torch.float64), cond

    return draw


@pytest.fixture
def compiling() -> Callable[..., Callable[..., Tensor]]:
    """torch.compile into one graph, traced but not generated; skipped where shape checks are on."""

    def compile_(net: Net) -> Callable[..., Tensor]:
        if hasattr(UNet.forward, "__wrapped__"):
            pytest.skip("shape checks break the graph; they are for tests, not for compiled networks")
        torch._dynamo.reset()
        return torch.compile(net, fullgraph=True, backend="aot_eager")

    return compile_
