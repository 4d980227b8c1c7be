"""Networks and pipelines of diffusers as fields.

The field's states are the network's own latents. What else a pipeline knows, its text encoders and its autoencoder, is
reached through methods of the field: `encode_prompt`, `decode`, `encode`.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rheos.adapters.calls import CALLS, Call, call_for
from rheos.adapters.described import DTYPES, build, describe, named
from rheos.adapters.doors import ExactField
from rheos.adapters.semantics import FLOW_SCHEDULERS, Semantics, semantics
from rheos.adapters.shrinking import shrunk
from rheos.adapters.surroundings import Surroundings
from rheos.core.base import Cond
from rheos.core.errors import ConditionError, OptionError, check_choice
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.nets.transforms import transformed

if TYPE_CHECKING:
    from rheos.distill.smaller import Smaller

__all__ = ["LatentField", "Network", "from_diffusers", "network_of", "parts", "surround"]


@final
class Network(nn.Module):
    """A diffusers network behind the door of a field.

    Args:
        model: The network, or its description (`rheos.adapters.described`).
        call: How it is called; found by its class unless given.
        meaning: What its clock and its output mean; a flow's unless given.
        pipeline: The pipeline around it, or the folder of one; its empty prompt gives null conditions.
        shape: One latent's shape, where it is known.
        nulls: Shape and dtype of null values that weights of a file will fill in.

    Raises:
        RheosError: For a description that cannot be built, or a class without a call.
    """

    exact_times = True
    """Fields give it times in float64, of which its own clock is made without rounding on the way."""
    delivers = (-1.0, 1.0)
    """Range of the pictures that `decode` gives."""

    def __init__(
        self,
        model: nn.Module | Mapping[str, Any],
        call: Call | None = None,
        meaning: Semantics | None = None,
        pipeline: Any = None,
        shape: Sequence[int] | None = None,
        nulls: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, nn.Module) else build(model)
        self.call = call or call_for(self.model)
        self.meaning = meaning or semantics({"_class_name": FLOW_SCHEDULERS[0]})
        self.shape = tuple(int(n) for n in shape) if shape is not None else None
        self.conditions = self.call.conditions(self.model)
        self.kept = self.call.kept
        self.around = Surroundings(pipeline, self.call.slot)
        self._empty: Cond = {}
        for name, about in (nulls or {}).items():
            check_choice(f"dtype of the null {name}", about["dtype"], DTYPES)
            self.set_null(name, torch.zeros(about["shape"], dtype=DTYPES[about["dtype"]]))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for `core.config`; a network of another class stands there itself."""
        usual = next((CALLS[kind.__name__] for kind in type(self.model).__mro__ if kind.__name__ in CALLS), None)
        nulls = {name: {"shape": list(v.shape), "dtype": named(v.dtype)} for name, v in self.nulls.items()}
        return {
            "model": describe(self.model) or self.model,
            "call": None if self.call == usual else self.call,
            "meaning": self.meaning,
            "pipeline": self.around.place,
            "shape": self.shape,
            "nulls": nulls,
        }

    @property
    def embeds_time(self) -> str | None:
        """Where a second time can be heard."""
        return None if self.call.embeds_time is None else f"model.{self.call.embeds_time}"

    @property
    def surrounded(self) -> bool:
        """Whether there is a pipeline around it that reads prompts, or the place of one."""
        return self.around.known and type(self.call).prompt is not Call.prompt

    @property
    def nulls(self) -> Cond:
        """Null values that were set; they are saved with the weights."""
        return {name.removeprefix("null_"): v for name, v in self._buffers.items() if v is not None}

    def set_null(self, name: str, value: Tensor) -> None:
        """Set a null value, one row."""
        self.register_buffer(f"null_{name}", value.detach().clone())

    def as_velocity(self) -> "Network":
        """The same model, whose raw output is taken for the velocity if it is that of a diffusion."""
        if not self.meaning.flow:
            self.meaning = Semantics(AffinePath("linear"), "velocity", steps=self.meaning.steps)
        return self

    def smaller(self, how: "Smaller") -> "Network":
        """A smaller network of the same class for a student on the linear path, in the same surroundings.

        Args:
            how: Its sizes.

        Raises:
            OptionError: For a class whose sizes are not known, or nothing that shrinks.
        """
        made = Network(shrunk(self.model, self.call, how), self.call, self.meaning, shape=self.shape)
        made.around = self.around
        for name, value in self.nulls.items():
            made.set_null(name, value)
        return made.as_velocity()

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """The output as the prediction that the field expects; t is float64."""
        timestep = cast(Tensor, self.meaning.timestep(t)).float()
        cond = {name: v.to(x.dtype) if v.is_floating_point() else v for name, v in cond.items()}
        with sdpa_kernel(SDPBackend.MATH) if transformed() else nullcontext():  # fused attention has no forward mode
            return cast(Tensor, self.meaning.value(self.call(self.model, x, timestep, cond)))

    def null(self, name: str, n: int) -> Tensor:
        """The null value of a condition: what was set, the family's own, or that of the empty prompt.

        Raises:
            ConditionError: If there is none.
            OptionError: If the pipeline that would know it cannot be read.
        """
        value = self.nulls.get(name, self._empty.get(name))
        if value is None:
            value = self.call.null(self.model, name)
        if value is None and self.around.known and hasattr(self.around.opened(self.model), "encode_prompt"):
            self._empty = self.encode_prompt([""], self.shape)
            value = self._empty.get(name)
        if value is None:
            raise ConditionError(
                f"There is no null value for {name!r}: give the condition, or set one with field.set_null({name}=...)."
            )
        where = next(self.model.parameters()).device
        return value.to(where).expand(n, *value.shape[1:])

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str], shape: tuple[int, ...] | None = None) -> Cond:
        """Conditions of one prompt or several, a row each, by the pipeline's own text encoders.

        Args:
            prompt: One row serves all samples of a draw.
            shape: One latent's shape, which prompts of some families carry.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return self.call.prompt(self.around.opened(self.model), prompts, shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures or videos in about [-1, 1] of latents; the latents themselves where there is no autoencoder."""
        self.around.opened(self.model)
        return self.around.decode(latents)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures or videos in [-1, 1]: the mode of the autoencoder's posterior, scaled."""
        self.around.opened(self.model)
        return self.around.encode(pictures)


@final
class LatentField(ExactField):
    """The field of a diffusers network, with the pipeline around it where there is one.

    Args:
        network: The network behind its door.
        pipeline: The pipeline, the folder of one, or None: what the network knows.
        shape: One latent's shape, or None.
        shift: Of the grids that it is sampled on; what the scheduler says unless given.
        gaussian: Whether x0 ~ N(0, I) independently of x1.
        value_range: Lowest and highest value of the latents, where they have such.
        times: The only times between which it may step, where it was straightened for such.
        baked: Scale of the guidance that training put into the weights.
    """

    net: Network
    bare = True

    def __init__(
        self,
        network: Network,
        pipeline: Any = None,
        shape: tuple[int, ...] | None = None,
        *,
        shift: float | None = None,
        gaussian: bool = True,
        value_range: tuple[float, float] | None = None,
        times: tuple[float, ...] | None = None,
        baked: float = 1.0,
    ) -> None:
        meaning = network.meaning
        if pipeline is not None:
            network.around = Surroundings(pipeline, network.call.slot)
        super().__init__(
            network, meaning.path, meaning.predicts, shift=_shift(network, shape) if shift is None else shift,
            gaussian=gaussian, shape=shape, value_range=value_range, times=times, baked=baked,
        )  # fmt: skip

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for `core.config`."""
        names = ("shape", "shift", "gaussian", "value_range", "times", "baked")
        return {"network": self.net, **{name: getattr(self, name) for name in names}}

    @property
    def finite(self) -> tuple[float, float]:
        """Where the network may be asked, and a velocity formed from its output is finite."""
        return self.net.meaning.finite

    def as_velocity(self) -> "LatentField":
        """A trainable copy on the linear path: the raw output is the velocity, the clock counts down from K to 0.

        A flow is copied as it is. A diffusion's output is not converted: this is how InstaFlow starts.
        """
        copied = copy.deepcopy(self)
        if not self.net.meaning.flow:
            meaning = copied.net.as_velocity().meaning
            copied.path, copied.predicts = meaning.path, meaning.predicts
        copied.shift, copied.times = 1.0, None
        return copied.requires_grad_(True)

    def null(self, cond: Cond) -> Cond:
        """The unconditional branch; sizes and an embedded guidance scale stay."""
        kept = self.net.kept
        return {name: v if name in kept else self._null(name, len(v)) for name, v in cond.items()}

    def set_null(self, **cond: Tensor) -> "LatentField":
        """Set null values, one row each; returns this field.

        Raises:
            ConditionError: For unknown names, or more than one row.
        """
        for name, value in cond.items():
            if name not in self.conditions or value.shape[:1] != (1,):
                known = ", ".join(sorted(self.conditions)) or "none"
                raise ConditionError(
                    f"A null value has one row and the name of a condition ({known}), got {name} of shape "
                    f"{tuple(value.shape)}."
                )
            self.net.set_null(name, value)
        return self

    @property
    def pipeline(self) -> Any:
        """The pipeline, read on first use where only its place is known.

        Raises:
            OptionError: If the field was made of a network alone, or the pipeline cannot be read.
        """
        return self.net.around.opened(self.net.model)

    def encode_prompt(self, prompt: str | Sequence[str]) -> Cond:
        """Conditions of one prompt or several, a row each, by the pipeline's own text encoders.

        Args:
            prompt: One row serves all samples of a draw.
        """
        return self.net.encode_prompt(prompt, self.shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures or videos in about [-1, 1] of latents; the latents themselves where there is no autoencoder.

        Args:
            latents: Samples of this field.
        """
        return self.net.decode(latents)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures or videos in [-1, 1]: the mode of the autoencoder's posterior, scaled.

        Args:
            pictures: (B, 3, height, width), or (B, 3, frames, height, width).
        """
        return self.net.encode(pictures)


def _shift(network: Network, shape: tuple[int, ...] | None) -> float:
    """What the scheduler says for latents of a shape."""
    meaning = network.meaning
    tokens = network.call.tokens(shape) if meaning.dynamic is not None and shape is not None else None
    return meaning.shift if tokens is None else meaning.shift_for(meaning.mu(tokens))


def from_diffusers(
    source: Any, scheduler: object = None, *, call: Call | None = None, shape: Sequence[int] | None = None
) -> LatentField:
    """A pipeline of diffusers, or its transformer or U-Net, as a field.

    Args:
        source: A pipeline, or a network of a known family (see `CALLS`).
        scheduler: What the clock and output of the network mean: a scheduler or its configuration. A pipeline brings
            its own; networks of families that are flows have shift 1 without one.
        call: How the network is called; found by its class.
        shape: One latent's shape, (channels, height, width) or (channels, frames, height, width); what the network's
            configuration says where it says it.

    Raises:
        OptionError: If there is no network, or nothing says what it predicts.
        UnknownOptionError: For an unknown family, or a scheduler without a meaning here.

    Example:
        >>> from diffusers import DDIMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, add_attention=False,
        ...                    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> field = from_diffusers(unet, DDIMScheduler())
        >>> field.predicts, field.shape, field(torch.zeros(2, 3, 8, 8), 0.5).shape
        ('noise', (3, 8, 8), torch.Size([2, 3, 8, 8]))
    """
    pipeline = None if isinstance(source, nn.Module) else source
    model = source if pipeline is None else _network(pipeline)
    call = call or call_for(model)
    scheduler = scheduler if scheduler is not None else getattr(pipeline, "scheduler", None)
    if scheduler is None:
        if not call.flow:
            raise OptionError(f"Nothing says what this {type(model).__name__} predicts: give its scheduler too.")
        scheduler = {"_class_name": FLOW_SCHEDULERS[0]}
    meaning = semantics(scheduler)
    size = tuple(int(n) for n in shape) if shape is not None else call.shape(model)
    field = LatentField(Network(model, call, meaning, pipeline, size), shape=size)
    return field.train(model.training)  # or a draw, which restores the field's mode, would change the network's


def _network(pipeline: Any) -> nn.Module:
    if getattr(pipeline, "transformer_2", None) is not None:
        raise OptionError(
            f"This {type(pipeline).__name__} has two transformers, one for each part of the way. Adapt each with "
            "from_diffusers(pipeline.transformer, pipeline.scheduler) and choose by time."
        )
    for name in dict.fromkeys(call.slot for call in CALLS.values()):
        model = getattr(pipeline, name, None)
        if isinstance(model, nn.Module):
            return model
    raise OptionError(f"{type(pipeline).__name__} has neither a transformer nor a U-Net: is it of diffusers?")


def network_of(field: Field) -> Network | None:
    """The network of diffusers inside a field, or None: a student of any method has its teacher's surroundings.

    Args:
        field: A pipeline's field, or a student of one.

    Example:
        >>> from rheos.nets import MLP
        >>> print(network_of(Field(MLP(2))))
        None
    """
    return next((module for module in field.modules() if isinstance(module, Network)), None)


def surround(field: Field, pipeline: Any) -> Field:
    """Put a pipeline around the network inside a field, and return the field: whoever shares its surroundings has it.

    Args:
        field: A pipeline's field, or a student of one.
        pipeline: The pipeline.

    Raises:
        OptionError: If there is no network of diffusers inside.
    """
    network = network_of(field)
    if network is None:
        raise OptionError(f"There is no network of diffusers in this {type(field).__name__}, so nothing to surround.")
    network.around.put(pipeline)
    return field


def parts(field: "LatentField") -> dict[str, object]:
    """A copy of a pipeline's field, and what it is made of, by name, for one `rheos.load(student, custom=...)`.

    Files name these classes where they were written by older versions, or where the network or its call is a class of
    your own, which no file can hold; all other students load by themselves.

    Args:
        field: Of the same pipeline.
    """
    whole = copy.deepcopy(field)
    named = (whole, whole.net, whole.net.model, whole.net.call)
    return {f"{type(part).__module__}:{type(part).__qualname__}": part for part in named}
