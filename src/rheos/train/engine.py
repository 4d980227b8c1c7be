"""One optimiser step, and the state that it leaves: weights, moments, average, sums for the log."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from rheos.core.draws import Draws
from rheos.core.errors import CheckpointError
from rheos.core.field import Field
from rheos.core.objectives import Objective, Plan
from rheos.data.dataset import Batch
from rheos.nets.ema import EMA
from rheos.train.checkpoint import Checkpoint, fits, restore
from rheos.train.dist import Team, full, place, reshard
from rheos.train.options import Options

__all__ = ["Engine", "Window", "trained"]


def trained(field: Field) -> nn.Module:
    """The module whose weights are a run's: the network, or the field if it has weights of its own."""
    own = all(name.startswith("net.") for name, _ in (*field.named_parameters(), *field.named_buffers()))
    return field.net if own else field


@final
class Window:
    """Sums of figures since the last line of the log, kept on the device, so that no step waits for a number.

    Args:
        team: Whose processes share each figure.
    """

    def __init__(self, team: Team) -> None:
        self.team, self.count = team, 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, name: str, value: Tensor | float, share: float = 1.0) -> None:
        """Add this process's (part's) share of a figure."""
        if name not in self._sums:
            kind = torch.float32 if self.team.device.type == "mps" else torch.float64
            self._sums[name] = torch.zeros((), dtype=kind, device=self.team.device)
        self._sums[name].add_(value, alpha=share)

    def settle(self) -> dict[str, float]:
        """The sums over all processes; from now on process 0 holds them."""
        if not self._sums:
            return {}
        both = self.team.total(torch.stack(list(self._sums.values())))
        for total, value in zip(self._sums.values(), both, strict=True):
            total.copy_(value) if self.team.leads else total.zero_()
        return dict(zip(self._sums, both.tolist(), strict=True))

    def means(self) -> dict[str, float]:
        """The mean of each figure a step; a new window begins."""
        means = {name: value / self.count for name, value in self.settle().items()}
        self._sums.clear()
        self.count = 0
        return means

    def fill(self, count: int, sums: Mapping[str, float]) -> None:
        """Go on with stored sums."""
        self.count = count
        for name, value in sums.items():
            self.add(name, value if self.team.leads else 0.0)


class _Loss(nn.Module):
    """What is called for each part: wrapping it, not the network, lets a loss call the network more than once."""

    def __init__(self, field: Field, objective: Objective) -> None:
        super().__init__()
        self.field, self.objective = field, objective

    def forward(self, plan: Plan) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss = self.objective.loss(self.field, plan)
        return loss.value, dict(loss.logs)


@final
class Engine:
    """Takes optimiser steps.

    Args:
        field: Trained in place.
        objective: Calibrated.
        options: How.
        team: The processes.
        steps: Of the whole run, for the learning rate.
    """

    def __init__(self, field: Field, objective: Objective, options: Options, team: Team, steps: int) -> None:
        self.field, self.objective, self.options, self.team, self.steps = field, objective, options, team, steps
        self.parts = team.parts(options.batch, options.accumulate)
        self.net = trained(field)
        if hasattr(objective, "averaging"):  # its targets may come from the average of weights
            objective = self.objective = objective.averaging(self._averaged if options.ema else None)
        self._call = team.share(_Loss(field, objective), self.net, options.parallel)
        self._named = {n: p for n, p in self.net.named_parameters() if p.requires_grad}
        self.optimiser = _optimiser(self._named, options, team.device)
        self.ema = EMA(self.net, options.ema) if options.ema else None
        self.window = Window(team)
        self._scaler = torch.amp.GradScaler(team.device.type, enabled=options.precision == "fp16")
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)

    def _averaged(self) -> AbstractContextManager[nn.Module]:
        """Inside, the network has its average."""
        assert self.ema is not None
        return self.ema.swap()

    def step(self, step: int, batch: Batch) -> None:
        """One optimiser step.

        Args:
            step: Counted from 0; keys all randomness.
            batch: The global batch, on the device.
        """
        self.take(step, self.plan(step, batch))

    def plan(self, step: int, batch: Batch) -> Plan:
        """The batch coupled, with its times and noise: a function of the seed and the step.

        Args:
            step: Counted from 0.
            batch: The global batch of a step, or of several that are coupled together.
        """
        torch.manual_seed(_seed(self.options.seed, step))
        draws = Draws.training(self.options.seed, step, len(batch.x), device=self.team.device)
        return self.objective.prepare(self.field, batch.x, batch.cond, draws)

    def take(self, step: int, plan: Plan) -> None:
        """One optimiser step on a plan."""
        options, n = self.options, self.options.batch
        torch.manual_seed(_seed(options.seed, step))
        for k, (start, stop) in enumerate(self.parts):
            whole = stop - start == n
            if not whole:  # dropout needs other masks in each part
                torch.manual_seed(_seed(options.seed, step, start))
            self._backward(plan if whole else plan.slice(start, stop), k + 1 == len(self.parts), (stop - start) / n)
        rate = options.rate(step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if options.clip:
            self._scaler.unscale_(self.optimiser)
            norm = nn.utils.clip_grad_norm_(self._named.values(), options.clip)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self.window.add("grad_norm", norm, 1 / self.team.size)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        self.window.count += 1

    def _backward(self, part: Plan, last: bool, share: float) -> None:
        with self.team.quiet(self._call, last):
            with torch.autocast(self.team.device.type, self._half) if self._half else nullcontext():
                value, logs = self._call(part)
            self._scaler.scale(value).backward()
        self.window.add("loss", value.detach())
        for name, figure in logs.items():
            self.window.add(name, figure, share)

    def finite(self) -> bool:
        """Whether every weight is a number, in all processes; waits for the device."""
        norms = torch._foreach_norm([_local(p.detach()) for p in self.net.parameters() if p.numel()])
        return not self.team.any(not bool(torch.stack([v.float() for v in norms]).isfinite().all()))

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """Inside, the network runs compiled if that was asked for; names of weights do not change."""
        before = self.field.net._compiled_call_impl
        if self.options.compile:
            self.field.net.compile(dynamic=False)
        try:
            yield
        finally:
            self.field.net._compiled_call_impl = before

    @contextmanager
    def sampling(self, average: bool) -> Iterator[None]:
        """Inside, the network is not compiled (batches have another size), and has its average if wanted."""
        impl, self.field.net._compiled_call_impl = self.field.net._compiled_call_impl, None
        try:
            with ExitStack() as stack:
                stack.callback(reshard, self.net)
                if average and self.ema is not None:
                    stack.enter_context(self.ema.swap())
                    stack.callback(reshard, self.net)
                yield
        finally:
            self.field.net._compiled_call_impl = impl

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Whole weights on the CPU, "model" and "ema"; every process must take part."""
        state = self.net.state_dict()
        both = {"model": full(state)}
        if self.ema is not None:
            average = self.ema.state_dict()
            both["ema"] = full({name: average[f"weights.{name}"] for name in state})
        return both

    def checkpoint(self, step: int, seconds: float) -> Checkpoint:
        """All that is needed to go on; every process must take part."""
        moments: dict[str, Tensor] = {}
        for name, p in self._named.items():
            for key, value in self.optimiser.state.get(p, {}).items():
                moments[f"{key}.{name}"] = value
        state: dict[str, Any] = {"seconds": seconds, "ema_count": self.ema.count if self.ema else 0}
        state["window"] = {"count": self.window.count, "sums": self.window.settle()}
        state["scaler"] = self._scaler.state_dict()
        return Checkpoint(step, {**self.weights(), "optimiser": full(moments)}, state)

    def resume(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: If it was written by another network or optimiser.
        """
        restore(self.net, checkpoint.tensors["model"], folder / "model.safetensors")
        if self.ema is not None:
            fits(self.net, checkpoint.tensors["ema"], folder / "ema.safetensors")
            averages = self.ema.state_dict()
            given = {f"weights.{n}": v for n, v in checkpoint.tensors["ema"].items()}
            placed = {n: place(given[n], v) if n in given else v for n, v in averages.items()}
            self.ema.load_state_dict({**placed, "count": torch.tensor(checkpoint.state["ema_count"])})
        for name, value in checkpoint.tensors["optimiser"].items():
            key, _, of = name.partition(".")
            if of not in self._named or (key != "step" and value.shape != self._named[of].shape):
                raise CheckpointError(
                    f"{folder / 'optimiser.safetensors'} belongs to another network: it has {name!r}.", name=name
                )
            p = self._named[of]
            self.optimiser.state[p][key] = value.clone().to(p.device) if key == "step" else place(value, p.detach())
        self.window.fill(checkpoint.state["window"]["count"], checkpoint.state["window"]["sums"])
        if checkpoint.state["scaler"]:
            self._scaler.load_state_dict(checkpoint.state["scaler"])


def _optimiser(named: Mapping[str, nn.Parameter], options: Options, device: torch.device) -> torch.optim.Optimizer:
    """Adam with decay on matrices only, all weights in one fused operation."""
    matrices = [p for p in named.values() if p.ndim > 1]
    others = [p for p in named.values() if p.ndim <= 1]
    groups = [
        {"params": part, "weight_decay": decay}
        for part, decay in ((matrices, options.weight_decay), (others, 0.0))
        if part
    ]
    make = torch.optim.AdamW if options.optimiser == "adamw" else torch.optim.Adam
    return make(groups, lr=options.lr, betas=options.betas, fused=device.type in ("cpu", "cuda"))


def _seed(*key: int) -> int:
    """A seed for torch's own generator (dropout), a function of the key alone; its CPU generator keeps 32 bits."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=4).digest(), "little")


def _local(value: Tensor) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value
