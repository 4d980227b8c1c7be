"""rheos: train, shorten, sample, steer and measure flows.

The rooms are loaded when they are first used, so that `import rheos` costs next to nothing:

    >>> import rheos
    >>> field = rheos.core.GaussianMixtureField(means=[[2.0], [-2.0]], stds=[0.5, 0.5])
    >>> rheos.sample.draw(field, 3, steps=4).shape
    torch.Size([3, 1])
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rheos import adapters, claims, core, data, distill, guide, metrics, nets, sample, train
    from rheos.train import load

__all__ = [
    "__version__", "adapters", "claims", "core", "data", "distill", "guide", "load", "metrics", "nets", "sample",
    "train",
]  # fmt: skip

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """A room, or `load`, on first use; afterwards it is a plain attribute."""
    if name not in __all__:
        raise AttributeError(f"module 'rheos' has no attribute {name!r}; it has: {', '.join(__all__[1:])}.")
    value: object = import_module("rheos.train").load if name == "load" else import_module(f"rheos.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
