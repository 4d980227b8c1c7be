r"""How far the pictures of a latent flow can be from the data, as far as reconstruction and flow error tell.

With $z = E(x)$, the decoder G of Lipschitz constant $L_G$, the learned velocity $\hat v$ of Lipschitz constant $\hat L$
in z, and the mean squared error $\epsilon^2 = \int_0^1 E \lVert v - \hat v \rVert^2 dt$ on the true flow's states,

$$W_2(p, \hat p) \le \sqrt{E \lVert x - G(E(x)) \rVert^2} + L_G\, e^{(1 + 2 \hat L) / 2} \epsilon.$$

The first term is the distance from x to its reconstruction. For the second, both flows start from one noise, and
$\frac{d}{dt} \lVert \Delta \rVert^2 \le (1 + 2 \hat L) \lVert \Delta \rVert^2 + \lVert v - \hat v \rVert^2$ for the
gap between them.

Reference: Flow Matching in Latent Space, Dao et al. (2023), https://arxiv.org/abs/2307.08698, theorem on W2.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.core.query import Query
from rheos.data.codecs import LatentCodec
from rheos.data.dataset import Data

__all__ = ["W2Bound", "latent_w2_bound", "spectral_norm"]


class W2Bound(NamedTuple):
    """The bound and what it is made of.

    Args:
        reconstruction: Mean of ‖x - G(E(x))‖² over pictures, a sum over pixels.
        flow: Mean of ‖v - v̂‖² over states and times. Without an exact velocity it is the flow-matching loss, which is
            larger by what no field can predict.
        decoder: Largest Jacobian norm of the decoder that was met.
        field: Largest Jacobian norm of the velocity in z that was met.
    """

    reconstruction: float
    flow: float
    decoder: float
    field: float

    @property
    def latent(self) -> float:
        r"""The flow's part, $L_G e^{(1 + 2 \hat L)/2} \epsilon$."""
        try:
            return self.decoder * math.exp(0.5 + self.field) * math.sqrt(self.flow)
        except OverflowError:
            return math.inf

    @property
    def w2(self) -> float:
        """The bound on W2."""
        return math.sqrt(self.reconstruction) + self.latent

    @property
    def printed(self) -> float:
        """The sum of the two squares, as the paper's theorem has it: it can be smaller than W2²."""
        return self.reconstruction + self.latent**2


def latent_w2_bound(
    field: Field,
    codec: LatentCodec,
    pictures: Data | Tensor,
    *,
    rows: int = 256,
    times: int = 8,
    powers: int = 20,
    velocity: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
) -> W2Bound:
    """Estimate the terms of the bound on held-out pictures.

    Constants are the largest values met at data and on the way to them, so they are no proof; a large `field` makes the
    bound loose (it stands in an exponent), and the bound is then of use only to compare.

    Args:
        field: A flow of latents, without conditions or given its null ones.
        codec: Its codec.
        pictures: Held-out pictures, or a set of them.
        rows: How many are looked at, at most.
        times: Times at which the flow's error is measured, in the middle of equal intervals.
        powers: Steps of the power iteration for Jacobian norms.
        velocity: The exact velocity at (z, t), where it is known.
        seed: Of the noise.

    Raises:
        OptionError: If the path does not start from Gaussian noise, or a count is below 1.
    """
    if min(rows, times, powers) < 1:
        raise OptionError(f"rows, times and powers must be at least 1, got {rows}, {times} and {powers}.")
    field.check_score()
    index = torch.arange(min(rows, len(pictures)))
    x = pictures.batch(index).x if isinstance(pictures, Data) else pictures[index]
    draws = Draws(row_seeds(seed, len(x)))
    mode = field.training
    field.eval()
    try:
        with torch.no_grad():
            z = codec.encode(x, draws.fold("encode")).to(field.device)
            reconstruction = float((x.to(z) - codec.decode(z)).flatten(1).square().sum(1).mean())
        flow, norm = _flow(field, z, times, powers, velocity, draws)
        decoder = spectral_norm(codec.decode, z, powers, draws.fold("decoder"))
    finally:
        field.train(mode)
    return W2Bound(reconstruction, flow, float(decoder.max()), norm)


def _flow(
    field: Field, z: Tensor, times: int, powers: int, velocity: Callable[[Tensor, Tensor], Tensor] | None, draws: Draws
) -> tuple[float, float]:
    """Mean squared error over the times, and the largest Jacobian norm."""
    errors, norms = [], []
    cond = field.complete({}, len(z))
    for k in range(times):
        own = draws.fold("time", k)
        plan = FlowMatching(dropout=0.0).prepare(field, z, {}, own)
        t = torch.full((len(z),), (k + 0.5) / times, dtype=torch.float64, device=z.device)
        sample = field.path.sample(plan.x0, z, t)
        xt = cast(Tensor, sample.xt)

        def ask(state: Tensor, t: Tensor = t) -> Tensor:
            return cast(Tensor, field.answer(Query(state, t, (t, t), cond, "velocity", grad=True)).value)

        with torch.no_grad():
            target = cast(Tensor, sample.u) if velocity is None else velocity(xt, t)
            errors.append(float((ask(xt) - target).flatten(1).square().sum(1).mean()))
        norms.append(float(spectral_norm(ask, xt, powers, own.fold("field")).max()))
    return sum(errors) / len(errors), max(norms)


def spectral_norm(f: Callable[[Tensor], Tensor], x: Tensor, powers: int, draws: Draws) -> Tensor:
    """(B,): the largest singular value of the Jacobian of each row's map, by power iteration on $J^T J$.

    $J v$ is a central difference, because many decoders have no derivative in forward mode; $J^T u$ is exact.

    Args:
        f: Rows to rows, each a function of its own row.
        x: Rows.
        powers: Iterations.
        draws: One stream a row, for the first direction.
    """
    v = cast(Tensor, draws.normal(x, "direction"))
    found = x.new_zeros(len(x))
    width = torch.finfo(x.dtype).eps ** (1 / 3) * _norms(x).clamp(min=1.0)
    for _ in range(powers):
        v = v / _like(_norms(v).clamp(min=1e-30), v)
        step = _like(width, v) * v
        with torch.no_grad():
            jv = f(x + step) - f(x - step)
            jv = jv / _like(2 * width, jv)
        found = _norms(jv)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            (v,) = torch.autograd.grad(f(leaf), leaf, jv)
    return found


def _norms(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(-1, *(1,) * (x.ndim - 1))
