r"""EDM's preconditioning of a network's inputs, written so that no time is singular.

With $\tilde x = x / \alpha$ and $\tilde\sigma = \sigma / \alpha$ the network $F$ sees $c_{in} \tilde x$ and
$c_{noise} = \frac14 \ln \tilde\sigma$. Here $c_{in} \tilde x = x / \sqrt{\sigma^2 + \sigma_d^2 \alpha^2}$, finite
also where $\alpha = 0$. What $F$ predicts becomes data, noise or velocity on the path: `predicts="edm"`.
"""

from collections.abc import Mapping
from typing import Any, cast, final

from jaxtyping import Float, Shaped
from torch import Tensor

from rheos.core import config, schedules
from rheos.core.errors import OptionError
from rheos.core.schedule import Schedule
from rheos.core.state import expand
from rheos.nets.attention import Tap
from rheos.nets.base import Net

__all__ = ["EDM"]


@final
class EDM(Net):
    r"""A network that sees inputs of unit variance and the logarithm of the noise level.

    Args:
        net: The network F, or its description (`core.config.dump`).
        schedule: Of the path it is trained on, or its name, or its description.
        sigma_data: Standard deviation of the data.
        clip: In the logarithm, smaller alphas and sigmas count as this: on the linear path |c_noise| stays below 4.1.

    Raises:
        OptionError: If `sigma_data` is not positive, or `clip` not in (0, 1).

    Example:
        >>> import torch
        >>> from rheos.nets import MLP
        >>> net = EDM(MLP(2, time_features=16), "linear", sigma_data=1.0)
        >>> scale, noise = net.inputs(torch.tensor([0.0, 0.5, 1.0]))
        >>> scale, noise[1].abs()
        (tensor([1.0000, 1.4142, 1.0000], dtype=torch.float64), tensor(0., dtype=torch.float64))

    Reference: Elucidating the Design Space, Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1.
    """

    def __init__(
        self,
        net: Net | Mapping[str, Any],
        schedule: Schedule | str | Mapping[str, Any],
        sigma_data: float = 0.5,
        clip: float = 1e-7,
    ) -> None:
        if not sigma_data > 0:
            raise OptionError(f"sigma_data must be positive, got {sigma_data}. Measure it: data.std().")
        if not 0 < clip < 1:
            raise OptionError(f"clip must lie in (0, 1), got {clip}.")
        inner: Net = net if isinstance(net, Net) else config.load(dict(net), expect=Net, name="net")
        law = schedules.schedule(schedule) if isinstance(schedule, Schedule | str) else _law(schedule)
        super().__init__(
            {"net": config.dump(inner), "schedule": config.dump(law), "sigma_data": sigma_data, "clip": clip}
        )
        self.net, self.schedule, self.sigma_data, self.clip = inner, law, sigma_data, clip
        self.conditions = inner.conditions

    @property
    def attentions(self) -> tuple[str, ...]:
        """Those of the wrapped network."""
        return self.net.attentions

    def null(self, name: str, rows: int) -> Tensor:
        """That of the wrapped network."""
        return self.net.null(name, rows)

    def inputs(self, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The factor of x, and the noise level that the network sees as its time; float64, finite for t in [0, 1]."""
        clock = t.double()
        alpha, sigma = cast(Tensor, self.schedule.alpha(clock)), cast(Tensor, self.schedule.sigma(clock))
        scale = (sigma**2 + (self.sigma_data * alpha) ** 2).rsqrt()
        return scale, 0.25 * (sigma.clamp(min=self.clip).log() - alpha.clamp(min=self.clip).log())

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """F of the scaled input; see `Net.forward`."""
        self.net.check(x, t, cond)
        scale, noise = self.inputs(t)
        return self.net(x * expand(scale, x), noise.to(t.dtype), taps=taps, **cond)  # type: ignore[no-any-return]


def _law(description: Mapping[str, Any]) -> Schedule:
    return cast(Schedule, config.load(dict(description), expect=Schedule, name="schedule"))
