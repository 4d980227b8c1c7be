"""A training step of `fit` beside the bare step and torchcfm's loop, and what compiling brings."""

import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import ClassVar

import torch
from torch import nn

from bench.harness import Ratio, Timing, in_turn
from rheos.core import Draws, Field, FlowMatching
from rheos.data import load
from rheos.nets import UNet
from rheos.train import Options, fit

BATCH, STEPS, SIZE = 128, 8, 16


def _net() -> UNet:
    torch.manual_seed(0)
    return UNet(channels=1, classes=10)


def _optimiser(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)


def bare() -> Callable[[], float]:
    """Forward, backward and optimiser on a fixed batch: nothing drawn, nothing logged; seconds a step."""
    net = _net().train()
    optimiser = _optimiser(net)
    x, t = torch.randn(BATCH, 1, SIZE, SIZE), torch.rand(BATCH)
    label, target = torch.randint(0, 10, (BATCH,)), torch.randn(BATCH, 1, SIZE, SIZE)

    def run() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            loss = nn.functional.mse_loss(net(x, t, label=label), target)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return (time.perf_counter() - begun) / STEPS

    return run


def ours(compiled: bool = False) -> Callable[[], float]:
    """`fit` between its third and its last step, so that set-up does not count; seconds a step."""
    data = load("mnist5k", size=SIZE)
    warm = 3

    class Clock(FlowMatching):
        """Flow matching that notes when each batch is prepared."""

        marks: ClassVar[list[float]] = []

        def prepare(self, *args: object, **more: object) -> object:
            self.marks.append(time.perf_counter())
            return super().prepare(*args, **more)

    field = Field(_net())
    options = Options(batch=BATCH, sample_every=0, save_every=0, log_every=100, compile=compiled, decay="constant")

    def run() -> float:
        Clock.marks = []
        fit(field, Clock(), data, steps=warm + STEPS + 1, options=options, progress=False)
        marks = Clock.marks[warm:]
        return (marks[-1] - marks[0]) / (len(marks) - 1)

    return run


def torchcfm() -> Callable[[], float]:
    """The loop of torchcfm's examples: a DataLoader, its matcher, AdamW, clipping, an average of weights."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    data = load("mnist5k", size=SIZE)
    everything = data.batch(torch.arange(len(data)))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(everything.x, everything.cond["label"]), BATCH, shuffle=True, drop_last=True
    )
    net, average = _net().train(), _net()
    optimiser, matcher = _optimiser(net), ConditionalFlowMatcher(sigma=0.0)

    def run() -> float:
        seconds, rows = 0.0, iter(loader)
        for _ in range(STEPS):
            begun = time.perf_counter()
            x1, label = next(rows)
            t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
            optimiser.zero_grad()
            loss = torch.mean((net(xt, t, label=label) - ut) ** 2)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                for a, b in zip(average.parameters(), net.parameters(), strict=True):
                    a.mul_(0.999).add_(b, alpha=0.001)
            seconds += time.perf_counter() - begun
        return seconds / STEPS

    return run


def _measured(functions: dict[str, Callable[[], float]], repeats: int) -> dict[str, Timing]:
    """Like `in_turn`, for functions that time themselves."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    in_turn({name: (lambda f=f, name=name: found[name].append(f())) for name, f in functions.items()}, repeats, warm=1)
    return {name: Timing(tuple(s[1:])) for name, s in found.items()}


def step() -> list[Ratio]:
    """Loop overhead of `fit`."""
    functions = {"bare": bare(), "rheos": ours()}
    with suppress(ImportError):
        functions["torchcfm loop"] = torchcfm()
    times = _measured(functions, repeats=9)
    detail = ", ".join(f"{name} {t.text(1e3, 'ms')}" for name, t in times.items())
    targets = {"bare": 1.05, "torchcfm loop": 1.0}
    return [
        Ratio("training step", peer, _ratio(times, peer), "<=", target, detail=detail)
        for peer, target in targets.items()
        if peer in times
    ]


def _ratio(times: dict[str, Timing], peer: str) -> float:
    """The median of the ratios round by round: a slow spell of the machine hits both of a round."""
    return median(a / b for a, b in zip(times["rheos"].seconds, times[peer].seconds, strict=True))


def compiled() -> list[Ratio]:
    """Eager over compiled seconds a step."""
    times = _measured({"eager": ours(), "compiled": ours(compiled=True)}, repeats=7)
    value = median(a / b for a, b in zip(times["eager"].seconds, times["compiled"].seconds, strict=True))
    detail = ", ".join(f"{name} {t.text(1e3, 'ms')}" for name, t in times.items())
    return [Ratio("compile=True, times faster", "eager fit", value, ">=", 1.15, "times", detail)]


def draws() -> list[Ratio]:
    """Noise by key beside torch's sequential generator."""
    like = torch.empty(BATCH, 1, SIZE, SIZE)
    keyed = Draws.training(0, 0, BATCH)
    times = in_turn({"rheos": lambda: keyed.normal(like, "noise"), "torch": lambda: torch.randn_like(like)}, 101, 10)
    detail = ", ".join(f"{name} {t.text()}" for name, t in times.items())
    value = times["rheos"].median / times["torch"].median
    return [Ratio("noise by key", "torch.randn", value, "<=", 5.0, detail=detail)]
