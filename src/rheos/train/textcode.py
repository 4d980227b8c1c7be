"""Training of a text autoencoder; what a flow to captions ends in."""

import torch
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.nets.text_autoencoder import TextAutoencoder

__all__ = ["fit_texts"]


def fit_texts(
    net: TextAutoencoder,
    texts: Tensor,
    *,
    steps: int,
    batch: int = 128,
    lr: float = 2e-3,
    noise: float = 0.3,
    seed: int = 0,
) -> float:
    """Train an autoencoder in place, and freeze it.

    Args:
        net: The autoencoder.
        texts: One-hot symbols, rows first.
        steps: Of Adam.
        batch: Rows a step, with replacement.
        lr: Learning rate.
        noise: Standard deviation added to latents.
        seed: Of batches and noise.

    Returns:
        The share of texts that come back without an error.

    Raises:
        OptionError: For counts below 1, or negative noise.
    """
    if min(steps, batch) < 1 or noise < 0:
        raise OptionError(f"steps and batch must be at least 1 and noise at least 0, got {steps}, {batch}, {noise}.")
    optimiser = torch.optim.Adam(net.requires_grad_(True).parameters(), lr=lr)
    for step in range(steps):
        draws = Draws.training(seed, step, batch)
        rows = (draws.uniform("rows") * len(texts)).long().to(texts.device)
        shake = draws.to(texts.device).normal(texts.new_empty(batch, net.latent), "noise")
        assert isinstance(shake, Tensor)
        optimiser.zero_grad()
        net.loss(texts[rows], noise * shake).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    net.eval().requires_grad_(False)
    with torch.no_grad():
        told = net.logits(net.encode(texts)).argmax(2)
    wanted = torch.where(texts.sum(2) > 0, texts.argmax(2), texts.shape[2])
    return float((told == wanted).all(1).double().mean())
