r"""How a training runs, apart from what it learns: one frozen record, checked when it is made."""

import math
from dataclasses import dataclass
from typing import Literal, final

from rheos.core.errors import OptionError, check_choice

__all__ = ["MAY_CHANGE", "Options"]

OPTIMISERS = ("adamw", "adam")
DECAYS = ("cosine", "linear", "constant")
PRECISIONS = ("fp32", "bf16", "fp16")
PARALLELS = ("ddp", "fsdp")
TRACKERS = ("jsonl", "tensorboard", "trackio", "wandb")

MAY_CHANGE = frozenset(
    {"accumulate", "compile", "keep", "log_every", "parallel", "sample_count", "sample_every", "save_every", "trackers"}
)
"""Options that a resumed run may have otherwise: they change rounding at most, never what is learned."""


@final
@dataclass(frozen=True)
class Options:
    r"""Options of `train.fit`.

    Args:
        batch: Rows of one optimiser step, over all processes and accumulated parts together.
        lr: Highest learning rate.
        optimiser: adamw or adam.
        betas: Decay of the running mean and of the running square of gradients, each in [0, 1).
        weight_decay: Shrinks weight matrices (not biases and norms); with adam it joins the gradient.
        warmup: Steps in which the learning rate rises to lr; a tenth of the run, at most 100, unless given.
        decay: How the rate falls after warm-up: cosine or linear, to nothing at the last step; or constant.
        clip: Largest norm of a step's gradient; 0 leaves it alone.
        couple: Steps whose batches are coupled together, so that transport sees batch x couple rows while a step has
            batch rows; its cost is paid once in so many steps.
        accumulate: Parts that a process cuts its rows into, to save memory; the step stays the same.
        precision: Of the network's arithmetic; weights, times and losses stay float32. fp16 needs a GPU.
        ema: How much of the average of weights stays at each step, in [0, 1); 0 keeps none. Young ones forget faster.
        compile: Compile the network with torch.compile: some time at the start, then faster steps.
        seed: Of everything that is random; the weights at the start are the field's own.
        save_every: Steps between checkpoints, besides the last; 0: only the last.
        sample_every: Steps between pictures; 0: none.
        sample_count: Samples in such a picture.
        log_every: Steps whose mean makes one line of metrics.jsonl.
        keep: Checkpoints kept.
        trackers: jsonl (always on), tensorboard, trackio, wandb, or your own class as "module:Class".
        parallel: What several processes do: ddp copies the network, fsdp shares it out.

    Raises:
        OptionError: For a value outside its range.

    Example:
        >>> [round(Options(lr=1.0, warmup=2).rate(step, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """

    batch: int = 128
    lr: float = 2e-3
    optimiser: Literal["adamw", "adam"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int | None = None
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    couple: int = 1
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float = 0.999
    compile: bool = False
    seed: int = 0
    save_every: int = 500
    sample_every: int = 500
    sample_count: int = 32
    log_every: int = 20
    keep: int = 2
    trackers: tuple[str, ...] = ("jsonl",)
    parallel: Literal["ddp", "fsdp"] = "ddp"

    def __post_init__(self) -> None:
        for name in ("batch", "couple", "accumulate", "sample_count", "log_every", "keep"):
            _whole(name, getattr(self, name), 1)
        for name in ("save_every", "sample_every"):
            _whole(name, getattr(self, name), 0)
        if self.warmup is not None:
            _whole("warmup", self.warmup, 0)
        if not 0 < self.lr < math.inf:
            raise OptionError(f"lr must be positive and finite, got {self.lr}.")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be 0 or positive, got {getattr(self, name)}.")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise OptionError(f"betas are two numbers in [0, 1), got {self.betas}.")
        if not 0 <= self.ema < 1:
            raise OptionError(f"ema must lie in [0, 1), got {self.ema}; 0 keeps no average.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise OptionError(f"seed must be a whole number, got {self.seed!r}.")
        if self.accumulate > self.batch:
            raise OptionError(f"A batch of {self.batch} rows cannot be cut into accumulate={self.accumulate} parts.")
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_choice("decay", self.decay, DECAYS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("parallel", self.parallel, PARALLELS)
        if isinstance(self.trackers, str):
            raise OptionError(f"trackers is a list of names, got the text {self.trackers!r}.")
        for tracker in self.trackers:
            if ":" not in tracker:
                check_choice("tracker", tracker, TRACKERS)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: Counted from 0.
            steps: Of the whole run.
        """
        warmup = min(100, steps // 10) if self.warmup is None else self.warmup
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.decay == "constant" or steps <= warmup:
            return self.lr
        part = (step - warmup) / (steps - warmup)
        return self.lr * (0.5 + 0.5 * math.cos(math.pi * part) if self.decay == "cosine" else 1 - part)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}.")
