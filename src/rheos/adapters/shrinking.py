"""Smaller networks of diffusers, from the configuration of a large one: fewer heads or channels, fewer blocks.

A transformer's width is its number of heads, each as wide as before; a U-Net's is its channels. Where only the depth
shrinks, a transformer may begin with some of the large one's blocks: evenly spaced ones with the last, whose form
differs in some families.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rheos.adapters.calls import Call
from rheos.adapters.described import arguments, build, describe
from rheos.core.errors import OptionError

if TYPE_CHECKING:
    from rheos.distill.smaller import Smaller

__all__ = ["picks", "shrunk"]

PLACES = "dual_attention_layers"
"""Says by number which blocks differ from the others."""


def picks(count: int, kept: int) -> list[int]:
    """Evenly spaced places of a list, the last one among them.

    Example:
        >>> picks(24, 6), picks(2, 1)
        ([0, 5, 9, 14, 18, 23], [1])
    """
    return [count - 1] if kept == 1 else [math.floor(j * (count - 1) / (kept - 1) + 0.5) for j in range(kept)]


def shrunk(model: nn.Module, call: Call, how: "Smaller") -> nn.Module:
    """A smaller network of the same class.

    Args:
        model: The large one.
        call: Its family.
        how: Width, depth, and what it begins with.

    Raises:
        OptionError: For a class that cannot be described or has no known sizes, if nothing would become smaller, or if
            blocks are to be taken over by a network of another width, or by a U-Net.
    """
    about, given = describe(model), arguments(model)
    if about is None or not call.widths:
        raise OptionError(
            f"Nothing is known of the sizes of a {type(model).__name__}. Build a smaller one and give it as student."
        )
    if how.begin == "blocks" and not all(name for name, _ in call.blocks):
        raise OptionError("A U-Net's levels are no list of like blocks. Let the smaller one begin fresh.")
    changed = _widths(given, call.widths, how.width) if how.width != 1 else {}
    kept: dict[str, list[int]] = {}
    for name, entry in call.blocks:
        count = given[entry]
        if isinstance(count, int):
            kept[name] = picks(count, max(1, round(count * how.depth)))
            changed[entry] = len(kept[name])
        else:
            changed[entry] = [max(1, round(n * how.depth)) for n in count]
    if given.get(PLACES):
        places = next(iter(kept.values()))
        changed[PLACES] = [j for j, i in enumerate(places) if i in given[PLACES]]
    if all(list(_listed(given[k])) == list(_listed(v)) for k, v in changed.items()):
        raise OptionError(
            f"This {type(model).__name__} does not become smaller with width {how.width:g} and depth {how.depth:g}."
        )
    made = build({**about, "arguments": {**about["arguments"], **changed}})
    if how.begin == "blocks":
        made.load_state_dict(_taken(model.state_dict(), made.state_dict(), kept))
    return made.to(next(model.parameters()).device).train(model.training)


def _widths(given: Mapping[str, Any], entries: Sequence[str], width: float) -> dict[str, Any]:
    """The entries of the configuration at another width."""
    head, *rest = entries
    if not isinstance(given[head], int):
        return {head: _channels(given, given[head], width)}
    heads = max(1, round(given[head] * width))
    return {head: heads, **{name: max(1, given[name] * heads // given[head]) for name in rest}}


def _channels(given: Mapping[str, Any], channels: Sequence[int], width: float) -> list[int]:
    """Channels of a U-Net's levels, which groups of its norms and heads must divide."""
    names = ("norm_num_groups", "attn_norm_num_groups", "attention_head_dim", "num_attention_heads")
    numbers = [n for name in names for n in _listed(given.get(name)) if isinstance(n, int) and n > 0]
    step = math.lcm(*numbers)
    return [min(n, max(step, step * round(n * width / step))) for n in channels]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _taken(old: Mapping[str, Tensor], new: Mapping[str, Tensor], kept: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Weights of the smaller network: of the blocks that are kept, under their new numbers, and all others."""
    made = {}
    for name in new:
        head, _, tail = name.partition(".")
        number, _, rest = tail.partition(".")
        made[name] = old[f"{head}.{kept[head][int(number)]}.{rest}" if head in kept else name]
    return made
