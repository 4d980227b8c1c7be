"""What a training step of a flow map costs: splitting beside the derivative of MeanFlow, in time and in memory."""

from collections.abc import Callable
from statistics import median

import torch

from bench.harness import Ratio, in_turn
from rheos.claims.memory import peak_bytes
from rheos.core import Draws, FlowMapField, FlowMatching, TwoTimes
from rheos.distill import FlowMapLoss
from rheos.nets import MLP, DiT, TwoTimeAdapter

TARGETS = ("split", "half", "jvp", "fd", "imf")
NETS = {
    "MLP of 0.3 M": (lambda: MLP(64, 160, 2, "silu", residual=True, time_features=64), (64,), 128),
    "DiT of 0.9 M": (lambda: DiT(1, 16, patch=2, dim=96, depth=4, heads=4), (1, 16, 16), 32),
}


def step(target: str, name: str, device: str = "cpu") -> Callable[[], None]:
    """A training step: plan, loss, gradient, Adam; the same intervals for all targets."""
    make, shape, batch = NETS[name]
    torch.manual_seed(0)
    field = FlowMapField(TwoTimeAdapter(make())).to(device)
    loss = FlowMapLoss(target, TwoTimes("uniform", 0.5), FlowMatching(dropout=0.0))
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-4)
    x = torch.randn(batch, *shape, device=device)
    count = [0]

    def run() -> None:
        count[0] += 1
        plan = loss.prepare(field, x, {}, Draws.training(0, count[0], batch, device=device))
        optimiser.zero_grad()
        loss.loss(field, plan).value.backward()
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def flow_maps(device: str = "cpu") -> list[Ratio]:
    """Splitting against forward mode: a step's time, and the most bytes that it has alive."""
    torch.set_num_threads(1)
    rows = []
    for name in NETS:
        functions = {target: step(target, name, device) for target in TARGETS}
        times = in_turn(functions, 31, 5)
        for f in functions.values():
            f()
        bytes_ = {target: peak_bytes(f, device) for target, f in functions.items()}
        value = median(a / b for a, b in zip(times["split"].seconds, times["jvp"].seconds, strict=True))
        clock = ", ".join(f"{target} {t.text(1e3, 'ms')}" for target, t in times.items())
        rows.append(Ratio(f"step of a flow map, {name}", "jvp", value, "<=", 0.8, detail=clock, device=device))
        memory = ", ".join(f"{target} {b / 2**20:.1f} MiB" for target, b in bytes_.items())
        ratio = bytes_["split"] / bytes_["jvp"]
        rows.append(Ratio(f"memory of a flow map, {name}", "jvp", ratio, "<=", 1.0, detail=memory, device=device))
    return rows
