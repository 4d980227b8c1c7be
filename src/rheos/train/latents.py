"""Pictures to latents and back through any autoencoder: what `encode` and `decode` return differs between libraries.

Taken are rheos' own `LatentCodec` and `Autoencoder`; a tensor; diffusers' output with `latent_dist` (its mode, or a
sample from its mean and standard deviation with keyed noise) or `sample`; and a tuple that begins with one of these.
"""

from typing import Any, cast

from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.data.codecs import LatentCodec
from rheos.nets.autoencoder import Posterior

__all__ = ["decoded", "encoded"]


def encoded(autoencoder: Any, x: Tensor, scale: float = 1.0, shift: float = 0.0, draws: Draws | None = None) -> Tensor:
    r"""Latents, $(z - \mathrm{shift})\,\mathrm{scale}$.

    Args:
        autoencoder: Has `encode`. A `LatentCodec` scales by itself; the numbers here come on top.
        x: Pictures, rows first.
        scale: Of the latents.
        shift: Of the latents.
        draws: Noise for a sample of the posterior, where there is one; None takes its mode.

    Raises:
        OptionError: If there is no `encode`, or it returns something else.
    """
    if isinstance(autoencoder, LatentCodec):
        return (autoencoder.encode(x, draws) - shift) * scale
    found = _called(autoencoder, "encode", x)
    posterior = getattr(found, "latent_dist", found)
    if isinstance(posterior, Posterior):
        mean, std = posterior
    elif not isinstance(posterior, Tensor) and hasattr(posterior, "mode"):
        mean, std = posterior.mode(), posterior.std
    else:
        mean, std = _tensor(posterior, autoencoder, "encode"), None
    if draws is not None and std is not None:
        mean = mean + std * cast(Tensor, draws.to(mean.device).normal(mean, "posterior"))
    return (mean - shift) * scale


def decoded(autoencoder: Any, z: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Pictures of latents; the inverse of `encoded`.

    Args:
        autoencoder: Has `decode`.
        z: Latents, rows first.
        scale: Of the latents.
        shift: Of the latents.

    Raises:
        OptionError: If there is no `decode`, or it returns something else.
    """
    found = _called(autoencoder, "decode", z / scale + shift)
    return _tensor(getattr(found, "sample", found), autoencoder, "decode")


def _called(autoencoder: Any, name: str, x: Tensor) -> Any:
    if not callable(getattr(autoencoder, name, None)):
        raise OptionError(f"An autoencoder has encode(pictures) and decode(latents); {type(autoencoder)} lacks {name}.")
    found = getattr(autoencoder, name)(x)
    return found[0] if isinstance(found, tuple) and not isinstance(found, Posterior) else found


def _tensor(value: object, autoencoder: object, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise OptionError(
            f"{type(autoencoder).__name__}.{name} returned {type(value).__name__}; a tensor, or an output of "
            "diffusers, is expected."
        )
    return value
