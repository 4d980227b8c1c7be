"""Overhead of the sampling loop beyond the network's own calls, beside two peers; memory against steps."""

import torch
from torch import Tensor, nn

from bench.harness import Ratio, in_turn
from rheos.core import Field
from rheos.nets import MLP
from rheos.sample import solve

STEPS, ROWS = 100, 256


class Bare(nn.Module):
    """The network as a peer wants it: (x, t)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)


def overhead() -> list[Ratio]:
    """100 Euler steps of a 3 x 64 MLP at batch 256, beyond 100 bare calls with a ready clock."""
    torch.set_num_threads(1)
    net = MLP(2, hidden=64, depth=3).eval()
    field = Field(net, shape=(2,)).eval()
    x = torch.randn(ROWS, 2)
    grid = [k / STEPS for k in range(STEPS + 1)]
    clocks = [torch.full((ROWS,), t) for t in grid]

    def bare() -> None:
        with torch.no_grad():
            for t in clocks[:-1]:
                net(x, t)

    def bare_loop() -> Tensor:
        y = x
        with torch.no_grad():
            for k in range(STEPS):
                y = y + (1 / STEPS) * net(y, clocks[k])
        return y

    def ours() -> Tensor:
        return solve(field, x, grid, "euler").x  # type: ignore[return-value]

    functions = {"bare": bare, "bare loop": bare_loop, "rheos": ours, **_flow_matching(net, x), **_azula(net, x)}
    times = in_turn(functions, repeats=41, warm=5)
    base = times["bare"].median
    over = {name: (t.median - base) / STEPS * 1e6 for name, t in times.items()}
    text = ", ".join(f"{name} {v:.1f}" for name, v in over.items() if name != "bare")
    detail = (
        f"bare call {base / STEPS * 1e6:.1f} µs; overhead a step in µs: {text}; noise: quartiles "
        f"± {50 * times['bare'].spread:.0f} % of the bare calls"
    )
    ratios = []
    for peer, target in (("flow_matching ODESolver", 1.0), ("azula EulerSampler", 0.4)):
        if peer in over:
            ratios.append(Ratio("sampling overhead", peer, over["rheos"] / over[peer], "<=", target, detail=detail))
    return ratios


def _flow_matching(net: nn.Module, x: Tensor) -> dict[str, object]:
    try:
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper
    except ImportError:
        return {}

    class Wrapped(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            return self.model(x, t.expand(len(x)))

    solver = ODESolver(velocity_model=Wrapped(net))
    span = torch.tensor([0.0, 1.0])
    return {
        "flow_matching ODESolver": lambda: solver.sample(
            x_init=x, step_size=1 / STEPS, method="euler", time_grid=span, return_intermediates=False
        )
    }


def _azula(net: nn.Module, x: Tensor) -> dict[str, object]:
    try:
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import RectifiedSchedule
        from azula.sample import EulerSampler
    except ImportError:
        return {}

    class Velocity(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.schedule = net, RectifiedSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> object:
            return DiracPosterior(mean=self.backbone(x_t, t.expand(len(x_t))))

    sampler = EulerSampler(Velocity(), steps=STEPS, silent=True)
    return {"azula EulerSampler": lambda: sampler(x)}


def memory() -> list[Ratio]:
    """Most bytes alive while sampling 10 and 200 steps, counted by a hook in the network."""
    import gc

    peak = [0]

    class Watching(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            alive = sum(o.numel() * o.element_size() for o in gc.get_objects() if isinstance(o, Tensor))
            peak[0] = max(peak[0], alive)
            return -x

    field, x, figures = Field(Watching(), shape=(1000,)), torch.randn(64, 1000), {}
    for steps in (10, 200):
        peak[0] = 0
        solve(field, x, [k / steps for k in range(steps + 1)], "heun")
        figures[steps] = peak[0]
    detail = f"{figures[10]} bytes at 10 steps, {figures[200]} at 200"
    return [
        Ratio("sampling memory, 200 against 10 steps", "itself", figures[200] / figures[10], "<=", 1.0, detail=detail)
    ]
