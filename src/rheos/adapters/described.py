"""Networks of diffusers as plain values, and back: what a run's configuration holds of them.

A description names a class of diffusers that an adapter knows, and the arguments of its constructor. Reading it builds
a network with random weights; nothing that a file names is run, and no other class is looked up.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from rheos.adapters.calls import CALLS
from rheos.core import config as plain
from rheos.core.errors import OptionError, check_choice, missing_extra

__all__ = ["DTYPES", "arguments", "build", "describe", "named"]

DTYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool)
}
"""That a file may name."""


def named(kind: torch.dtype) -> str:
    """A dtype as text, for `DTYPES`."""
    return str(kind).removeprefix("torch.")


def arguments(model: nn.Module) -> dict[str, Any]:
    """The constructor's arguments of a network of diffusers, from its configuration."""
    known = inspect.signature(type(model).__init__).parameters
    return {name: value for name, value in dict(getattr(model, "config", {})).items() if name in known}


def describe(model: nn.Module) -> dict[str, Any] | None:
    """A network of diffusers as plain values; None for any other class, which no file can hold.

    Args:
        model: The network.

    Example:
        >>> from diffusers import UNet2DModel
        >>> unet = UNet2DModel(8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, add_attention=False,
        ...                    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> about = describe(unet)
        >>> about["class"], about["arguments"]["block_out_channels"], type(build(about)).__name__
        ('UNet2DModel', [4], 'UNet2DModel')
    """
    name = type(model).__name__
    if name not in CALLS or type(model).__module__.partition(".")[0] != "diffusers":
        return None
    about: dict[str, Any] = {"class": name, "arguments": plain.dump(arguments(model), "arguments")}
    kind = named(next(model.parameters()).dtype)
    return about if kind == "float32" else {**about, "dtype": kind}


def build(about: Mapping[str, Any]) -> nn.Module:
    """The network of a description, with random weights.

    Args:
        about: What `describe` gave.

    Raises:
        MissingExtraError: If diffusers is not installed.
        UnknownOptionError: For a class that no adapter knows, or an argument that it does not take.
        OptionError: If the class refuses its arguments.
    """
    name, given = str(about.get("class")), dict(about.get("arguments", {}))
    check_choice("network", name, CALLS)
    if find_spec("diffusers") is None:
        raise missing_extra(f"The network {name}", "diffusers", "diffusers")
    cls: type[nn.Module] = getattr(import_module("diffusers"), name)
    known = inspect.signature(cls.__init__).parameters
    for key in given:
        check_choice(f"{name}: the option", key, known)
    try:
        made = cls(**given)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} refuses its configuration: {error}", name=name) from error
    kind = str(about.get("dtype", "float32"))
    check_choice("dtype", kind, DTYPES)
    return made if kind == "float32" else made.to(DTYPES[kind])
