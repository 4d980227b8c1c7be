"""A network as plain JSON, and back: what a run's configuration stores of it."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, cast

from rheos.core.errors import OptionError, check_choice
from rheos.nets.base import Net

__all__ = ["KINDS", "build", "describe"]

KINDS: Mapping[str, str] = {
    "DiT": "rheos.nets.dit",
    "EDM": "rheos.nets.edm",
    "MLP": "rheos.nets.mlp",
    "UNet": "rheos.nets.unet",
}
"""The networks of this package and their modules."""


def describe(net: Net) -> dict[str, Any]:
    """The network's kind and constructor arguments, without its weights.

    Example:
        >>> from rheos.nets import MLP
        >>> describe(MLP(2, hidden=8))["kind"], build(describe(MLP(2, hidden=8))).config["hidden"]
        ('MLP', 8)
    """
    return {"kind": type(net).__name__, **net.config}


def build(description: Mapping[str, Any], known: Iterable[type[Net]] = ()) -> Net:
    """A new network, freshly initialised, from what `describe` gave.

    Args:
        description: A kind and constructor arguments.
        known: Your own classes; nothing else is ever imported, whatever a file says.

    Raises:
        UnknownOptionError: If the kind is neither one of this package nor among `known`.
        OptionError: If the description names no kind, or an argument that its class does not know.
    """
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if kind is None:
        raise OptionError(f"A network's description needs a 'kind', got {sorted(arguments)}. Use nets.describe(net).")
    own = {cls.__name__: cls for cls in known}
    check_choice("network", kind, [*own, *KINDS])
    cls = own[kind] if kind in own else getattr(import_module(KINDS[kind]), kind)
    try:
        return cast(Net, cls(**arguments))
    except TypeError as error:
        raise OptionError(f"{kind} cannot be built from {sorted(arguments)}: {error}.") from error
