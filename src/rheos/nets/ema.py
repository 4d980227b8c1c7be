r"""The exponential moving average of a module's weights.

$\bar\theta \leftarrow \bar\theta + (1 - d_n)(\theta - \bar\theta)$ after every optimiser step, with
$d_n = \min(d, (1 + n) / (10 + n))$ while the average is young.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from rheos.core.errors import CheckpointError, OptionError

__all__ = ["EMA"]

_PREFIX = "weights."


@final
class EMA:
    """An average beside the raw weights; neither ever overwrites the other.

    Parameters are averaged, in float32 where theirs is a shorter type (a bf16 average would stand still); buffers
    are copied. One fused operation an update, no copies.

    Args:
        module: What to average; unwrap DDP and compiled modules first.
        decay: d in [0, 1): how much of the average stays at each update.
        warmup: Whether young averages forget faster.

    Raises:
        OptionError: If the decay is outside [0, 1).

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> ema = EMA(layer, decay=0.5, warmup=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> ema.update()
        >>> with ema.swap(layer):
        ...     layer(torch.ones(1)).item()
        0.5
        >>> layer(torch.ones(1)).item()
        1.0
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"The decay of an average must lie in [0, 1), got {decay}.")
        self.module, self.decay, self.warmup = module, decay, warmup
        self.count = 0
        self._swapped = False
        with torch.no_grad():
            self._average = {name: _longer(value.detach()).clone() for name, value in _live(module).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Let the module's present weights into the average; call it once after each optimiser step.

        Raises:
            OptionError: Inside `swap`, where the present weights are the average itself.
        """
        if self._swapped:
            raise OptionError("EMA.update() was called inside EMA.swap(). Leave the with-block before training on.")
        live = _live(self.module)
        keep = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay
        self.count += 1
        averages, values = [], []
        for name, value in live.items():
            if isinstance(value, nn.Parameter) and value.is_floating_point():
                averages.append(self._average[name])
                values.append(_longer(value.detach()))
            else:
                self._average[name].copy_(value)
        if averages:
            torch._foreach_lerp_(averages, values, 1 - keep)

    @contextmanager
    def swap(self, module: nn.Module | None = None) -> Iterator[nn.Module]:
        """The module with averaged weights inside the with-block, with its own bit for bit after it.

        Args:
            module: The averaged module, or another of the same build; None for the averaged one.

        Raises:
            OptionError: If the module's weights have other names or shapes, or in a second swap inside a first.
        """
        module = self.module if module is None else module
        live = {name: value.detach() for name, value in _live(module).items()}
        if {n: v.shape for n, v in live.items()} != {n: v.shape for n, v in self._average.items()}:
            raise OptionError("EMA.swap() was given a module whose weights differ in name or shape from the average.")
        if self._swapped:
            raise OptionError("EMA.swap() inside EMA.swap(): the raw weights are put away already.")
        raw = {name: value.clone() for name, value in live.items()}
        self._swapped = True
        try:
            _copy(live, self._average)
            yield module
        finally:
            _copy(live, raw)
            self._swapped = False

    def weights(self) -> dict[str, Tensor]:
        """The averages by name, in the module's dtypes: what `module.load_state_dict` takes."""
        live = _live(self.module)
        return {name: value.to(live[name].dtype) for name, value in self._average.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors: the averages, and the number of updates."""
        state = {_PREFIX + name: value for name, value in self._average.items()}
        return {**state, "count": torch.tensor(self.count, dtype=torch.int64)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            CheckpointError: If names or shapes are not those of this average; nothing is changed then.
        """
        wanted = {_PREFIX + name: value for name, value in self._average.items()} | {"count": torch.tensor(0)}
        wrong = sorted(wanted.keys() ^ state.keys())
        wrong += [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
        if wrong:
            raise CheckpointError(
                f"This average was stored for another network: {len(wrong)} entries differ, such as {wrong[0]!r}.",
                entries=wrong,
            )
        for name, value in self._average.items():
            value.copy_(state[_PREFIX + name])
        self.count = int(state["count"])


def _live(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as they are now: moving a module replaces its buffers."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _longer(value: Tensor) -> Tensor:
    short = value.is_floating_point() and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if short and isinstance(value, Tensor) else value


def _copy(into: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in into.items():
            value.copy_(source[name])
