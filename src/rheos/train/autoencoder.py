r"""Training an autoencoder by the same engine as a flow: resumable, averaged, with pictures on the way.

$\frac1D \left( \lVert x - G(z) \rVert^2 + \beta\, KL(q(z \mid x) \,\|\, N(0, I)) \right)$ with z from the
encoder's posterior q and D numbers in a picture: up to a constant and a factor, the evidence bound of a decoder whose
noise has the variance $\beta / 2$.

Reference: Auto-Encoding Variational Bayes, Kingma and Welling (2014), eq. 10; Latent Diffusion, Rombach et al. (2022).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn

from rheos.core.base import Cond, Context, Loss, Premetric
from rheos.core.draws import Draws
from rheos.core.errors import DataError, OptionError
from rheos.core.field import Field
from rheos.core.objectives import Plan
from rheos.core.premetrics import premetric
from rheos.core.state import State
from rheos.data.codecs import LatentCodec
from rheos.data.dataset import Data
from rheos.nets.autoencoder import Autoencoder
from rheos.train.fit import fit
from rheos.train.options import Options
from rheos.train.run import Run

__all__ = ["Autoencoding", "autoencoder", "codec_of"]


@final
@dataclass(frozen=True)
class Autoencoding:
    r"""Reconstruction and a little of the posterior's divergence from N(0, I); an `Objective` of `train.fit`.

    Args:
        kl: $\beta$: about twice the squared error that reconstructions are expected to have. Larger makes latents
            smoother and pictures softer.
        premetric: The distance of picture and reconstruction: a `Premetric` of data, or its name.

    Raises:
        OptionError: If kl is negative.

    Example:
        >>> from rheos.data import load
        >>> digits = load("digits", limit=64, conditions=[])
        >>> field = Field(Autoencoding().network(digits))
        >>> run = fit(field, Autoencoding(), digits, steps=1, options=Options(batch=8), progress=False)
        >>> sorted(run.metrics()[-1])
        ['grad_norm', 'kl', 'loss', 'lr', 'reconstruction', 'step']
    """

    kl: float = 1e-3
    premetric: Premetric | str = "mse"

    gaussian: ClassVar[bool] = True
    consumes: ClassVar[tuple[str, ...]] = ("label", "mask")

    def __post_init__(self) -> None:
        if not 0 <= self.kl < math.inf:
            raise OptionError(f"kl must be 0 or positive, got {self.kl}.")
        object.__setattr__(self, "premetric", premetric(self.premetric))

    def network(self, data: Data) -> Autoencoder:
        """An autoencoder for the data: factor 8 from 64 pixels on, 4 from 16 on, else 2.

        Raises:
            DataError: If the data are no pictures, or their sides cannot be halved.
        """
        if data.coded is not None or len(data.shape) != 3:
            raise DataError(f"An autoencoder learns from pictures; {data!r} holds none.")
        side = min(data.shape[1:])
        wanted = 8 if side >= 64 else 4 if side >= 16 else 2
        factor = next((f for f in (8, 4, 2) if f <= wanted and all(n % f == 0 for n in data.shape[1:])), 0)
        if not factor:
            raise DataError(
                f"Pictures of {data.shape[1]} x {data.shape[2]} cannot be halved; load them with an even size."
            )
        return Autoencoder(data.shape[0], factor=factor)

    def suggest(self, data: Data) -> Field:
        """`network` as what `fit` trains."""
        return Field(self.network(data))

    def calibrate(self, x1: State, cond: Cond, draws: Draws) -> "Autoencoding":
        """Nothing depends on the data."""
        return self

    def prepare(self, field: Field, x1: State, cond: Cond, draws: Draws) -> Plan:
        """Keyed noise for the posterior's sample travels as x0; there is no time."""
        x, net = cast(Tensor, x1), _net(field)
        shape = (net.latent, x.shape[2] // net.factor, x.shape[3] // net.factor)
        noise = draws.normal(x.new_empty(len(x), *shape), "posterior")
        t = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Plan(noise, x, t, {}, torch.full_like(t, 1 / len(x)))

    def loss(self, field: Field, plan: Plan) -> Loss:
        """One loss a row."""
        x = cast(Tensor, plan.x1)
        out = _net(field)(x, plan.x0)
        metric = cast(Premetric, self.premetric)
        reconstruction = metric(out.x, x, Context(x, cast(Tensor, plan.t), out.x, x))
        variance = out.log_variance.exp()
        divergence = 0.5 * (out.mean.square() + variance - 1 - out.log_variance).flatten(1).sum(1) / x[0].numel()
        logs = {"reconstruction": reconstruction.detach().mean(), "kl": divergence.detach().mean()}
        losses = reconstruction + self.kl * divergence
        return Loss(losses, plan.weight.to(losses), logs)

    def pictures(self, field: Field, x: Tensor) -> Tensor:
        """What training shows on the way: reconstructions of the posterior's means."""
        return cast(Tensor, _net(field)(x).x)


def autoencoder(
    data: Data,
    *,
    net: Autoencoder | None = None,
    objective: Autoencoding | None = None,
    steps: int = 2000,
    out: str | Path | None = None,
    options: Options | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run:
    """Train an autoencoder of pictures.

    Args:
        data: Pictures; conditions are left aside.
        net: Trained in place; `Autoencoding.network(data)` unless given.
        objective: The default unless given.
        steps: Optimiser steps.
        out: The run directory, which `rheos.data.load(..., codec=out)` takes.
        options: As in `fit`.
        resume: Go on with the run in `out`.
        progress: As in `fit`.

    Example:
        >>> from rheos.data import load
        >>> run = autoencoder(load("digits", limit=64), steps=1, options=Options(batch=8), progress=False)
        >>> codec_of(run)
        LatentCodec(Autoencoder, scale=not fitted, shift=0.0)
    """
    objective = objective or Autoencoding()
    if net is None:
        with torch.random.fork_rng([]):
            torch.manual_seed((options or Options()).seed)
            net = objective.network(data)
    return fit(
        Field(net), objective, replace(data, conditions=()), steps=steps, out=out, options=options, resume=resume,
        progress=progress,
    )  # fmt: skip


def codec_of(run: Run) -> LatentCodec:
    """The codec of an autoencoder's run, its averaged weights, with the scale still to be fitted.

    Raises:
        OptionError: If the run is not that of an autoencoder.
    """
    net: nn.Module = run.field.net
    if not isinstance(net, Autoencoder):
        raise OptionError(f"This run trained a {type(net).__name__}, not an autoencoder: see rheos.train.autoencoder.")
    span: Any = run.config["data"]["delivers"] or (-1.0, 1.0)
    codec = LatentCodec(net, delivers=(span[0], span[1]))
    codec.source = None if run.path is None else str(run.path.resolve())
    return codec


def _net(field: Field) -> Autoencoder:
    if not isinstance(field.net, Autoencoder):
        raise OptionError(
            f"Autoencoding trains a Field of an Autoencoder, got one of {type(field.net).__name__}: "
            "Field(objective.network(data))."
        )
    return field.net
