r"""A pretrained backbone made to carry two pictures instead of one.

The weights of the first convolution are repeated over twice the input channels, $W' = [W, W]$ with the bias as it was,
those of the last over twice the output channels, bias too: with nothing in the second half both halves of the output
are the old network's, and with the same picture in both the first layer sees $2 W x + b$.

Reference: Symmetrical Flow Matching, https://arxiv.org/abs/2506.10634, section on Stable Diffusion.
"""

import copy
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.core.errors import OptionError, ShapeError
from rheos.nets import UNet

__all__ = ["TextFree", "doubled"]


def doubled(net: nn.Module) -> nn.Module:
    """A copy of a network with twice the channels in and out, which starts from the old one's weights.

    Args:
        net: A `nets.UNet` (whose `concat` stays as it is), a U-Net of diffusers, or any module whose first and last
            convolutions are called `conv_in` and `conv_out`. The given one is left alone.

    Raises:
        OptionError: If it has no such convolutions.

    Example:
        >>> base = UNet(channels=3, width=8, multipliers=(1, 2))
        >>> both = doubled(base)
        >>> both(torch.zeros(1, 6, 8, 8), torch.rand(1)).shape
        torch.Size([1, 6, 8, 8])
    """
    if isinstance(net, UNet):
        return _doubled_unet(net)
    first, last = getattr(net, "conv_in", None), getattr(net, "conv_out", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        raise OptionError(
            f"doubled needs a nets.UNet, or convolutions named conv_in and conv_out; {type(net).__name__} has neither."
        )
    new = copy.deepcopy(net)
    cast(Any, new).conv_in = _twice_in(first, first.in_channels)
    cast(Any, new).conv_out = _twice_out(last)
    register = getattr(new, "register_to_config", None)
    if register is not None:  # what diffusers saves, and builds again from
        register(in_channels=2 * first.in_channels, out_channels=2 * last.out_channels)
    return new


def _doubled_unet(net: UNet) -> UNet:
    out = net.config["out_channels"] or net.config["channels"]
    if out != net.channels:
        raise OptionError(f"A U-Net with {net.channels} channels in and {out} out predicts no velocity to double.")
    new = UNet(**{**net.config, "channels": 2 * net.channels, "out_channels": None})
    state = dict(net.state_dict())
    last = cast(nn.Conv2d, net.leave[-1])
    state["enter.weight"] = _twice_in(net.enter, net.channels).weight.detach()
    for name, value in _twice_out(last).state_dict().items():
        state[f"leave.{len(net.leave) - 1}.{name}"] = value
    new.load_state_dict(state)
    first = next(net.parameters())
    return new.to(first.device, first.dtype)


def _twice_in(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The first `channels` inputs twice, then what follows them."""
    new = copy.deepcopy(conv)
    w = conv.weight.detach()
    new.in_channels = conv.in_channels + channels
    new.weight = nn.Parameter(torch.cat((w[:, :channels], w[:, :channels], w[:, channels:]), 1))
    return new


def _twice_out(conv: nn.Conv2d) -> nn.Conv2d:
    new = copy.deepcopy(conv)
    new.out_channels = 2 * conv.out_channels
    new.weight = nn.Parameter(conv.weight.detach().repeat(2, 1, 1, 1))
    if conv.bias is not None:
        new.bias = nn.Parameter(conv.bias.detach().repeat(2))
    return new


@final
class TextFree(nn.Module):
    """A text-conditioned U-Net of diffusers as a plain network: it always hears the same (empty) prompt.

    Times reach it as they are given; `PairNet(time_scale=...)` scales them. The paper's code feeds t in [0, 1] to a
    network that was made for 0..1000, which works because it is trained on.

    Args:
        model: Called `model(x, t, encoder_hidden_states=...)`; returns a tensor or an output with `sample`.
        prompt: (L, D) or (1, L, D): the embedding of the empty prompt; None for a network without text.
    """

    def __init__(self, model: nn.Module, prompt: Tensor | None = None) -> None:
        super().__init__()
        if prompt is not None and (prompt.ndim not in (2, 3) or (prompt.ndim == 3 and len(prompt) != 1)):
            raise ShapeError(f"The prompt's embedding has the shape (L, D) or (1, L, D), got {tuple(prompt.shape)}.")
        self.model = model
        self.prompt: Tensor | None
        self.register_buffer("prompt", None if prompt is None else prompt.reshape(1, *prompt.shape[-2:]).clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's output at (x, t)."""
        if self.prompt is None:
            out = self.model(x, t)
        else:
            out = self.model(x, t, encoder_hidden_states=self.prompt.expand(len(x), -1, -1).to(x.dtype))
        return cast(Tensor, out if isinstance(out, Tensor) else out.sample)
