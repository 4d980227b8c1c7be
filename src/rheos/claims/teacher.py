"""The small real flow that the claims about sampling share: an MLP on handwritten digits of 8 x 8."""

from typing import NamedTuple

import torch
from torch import Tensor

from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.data import Data, load
from rheos.metrics.features import FeatureExtractor, features
from rheos.nets import MLP
from rheos.train import Options, fit

__all__ = ["Bench", "bench", "train_teacher", "uniform"]


class Bench(NamedTuple):
    """Digits to learn, and the features of those held out.

    Args:
        train: The data.
        net: Features in which distances are measured.
        real: Features of the held-out digits.
        pixels: The held-out digits, (n, 64).
    """

    train: Data
    net: FeatureExtractor
    real: Tensor
    pixels: Tensor


def bench() -> Bench:
    """Four fifths of the digits for training, one for measuring."""
    train, held_out = load("digits", conditions=[]).split(0.2, seed=0)
    net = features("digits")
    x = held_out.batch(torch.arange(len(held_out))).x
    return Bench(train, net, net.features(x), x.flatten(1))


def train_teacher(data: Data, steps: int, seed: int) -> Field:
    """A residual MLP of 0.26 M parameters on plain flow matching at batch 128.

    Args:
        data: Of `bench`.
        steps: Optimiser steps.
        seed: Of weights, batches, noise and times.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64)
    options = Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=max(steps, 1))
    run = fit(Field(net), FlowMatching(), data, steps=steps, options=options, progress=False)
    return run.field


def uniform(n: int) -> list[float]:
    """The grid of n equal steps."""
    return [k / n for k in range(n + 1)]
