r"""Several processes as one: what a training step needs of `torch.distributed`, and nothing else.

Launchers (torchrun, Slurm, Ray, accelerate) set RANK, WORLD_SIZE and LOCAL_RANK; no further setting is read. Losses
come with weights normalised over the global batch, so gradients and losses are *summed* over processes where others
average: uneven parts are then exact, and 1 x 8 rows, 2 x 4 rows and two accumulated halves make one step.
"""

import atexit
import gc
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor, distributed, nn

from rheos.core import errors
from rheos.core.errors import OptionError, RheosError, RunError

__all__ = ["Team", "full", "place", "reshard"]

T = TypeVar("T")


@final
class Team:
    """The processes of one training; a team of one costs nothing.

    Args:
        device: Where this process computes.

    Attributes:
        rank: This process, from 0; 0 writes files and speaks.
        size: How many processes there are.
        device: Where this process computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = 0, 1, device

    @classmethod
    def assemble(cls, device: torch.device) -> "Team":
        """The team that the environment describes: gloo on CPUs, nccl on GPUs; one process if it describes none.

        The processes stay connected until they end: a second training finds the connection of the first.

        Args:
            device: Of the field; "cuda" becomes this process's own GPU.

        Raises:
            RunError: If the processes do not find each other.
        """
        team = cls(device)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and device.type == "cuda":
            team.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(team.device)
        if count > 1 and not distributed.is_initialized():
            try:
                distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            except (ValueError, RuntimeError, distributed.DistError) as error:
                raise RunError(
                    f"WORLD_SIZE={count}, but the processes do not find each other: {error}. Start them with torchrun."
                ) from error
            atexit.register(_part)
        if distributed.is_available() and distributed.is_initialized():
            team.rank, team.size = distributed.get_rank(), distributed.get_world_size()
        return team

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[tuple[int, int]]:
        """This process's rows of the global batch, cut into `accumulate` parts: (start, stop) each.

        Raises:
            OptionError: If some part would be empty.

        Example:
            >>> Team(torch.device("cpu")).parts(10, 3)
            [(0, 3), (3, 6), (6, 10)]
        """
        count = self.size * accumulate
        if count > batch:
            raise OptionError(
                f"A batch of {batch} rows cannot be shared by {self.size} processes x accumulate={accumulate}. "
                f"Use a batch of at least {count}."
            )
        edges = [batch * k // count for k in range(self.rank * accumulate, (self.rank + 1) * accumulate + 1)]
        return list(pairwise(edges))

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes, in place, on all of them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return flag if self.size == 1 else bool(self.total(torch.tensor(float(flag), device=self.device)))

    def together(self, work: Callable[[], T]) -> T:
        """Do something in process 0 alone; its result, or its error, is everybody's.

        Raises:
            RheosError: What the work raised, in every process.
        """
        if self.size == 1:
            return work()
        box: list[Any] = [None]
        if self.leads:
            try:
                box = [("ok", work())]
            except RheosError as error:
                box = [(type(error).__name__, str(error))]
            except Exception as error:
                distributed.broadcast_object_list([("RheosError", f"Process 0 failed: {error!r}")], src=0)
                raise
        distributed.broadcast_object_list(box, src=0)
        kind, value = box[0]
        if kind != "ok":
            raise getattr(errors, kind, RheosError)(value)
        return value  # type: ignore[no-any-return]

    def share(self, step: nn.Module, net: nn.Module, parallel: str) -> nn.Module:
        """The module to call for a part's loss, with gradients summed over processes.

        Args:
            step: Its forward pass gives the loss; it contains the network.
            net: The network.
            parallel: "ddp" copies the network to each process, "fsdp" cuts its weights into shards, in place.
        """
        if self.size == 1:
            return step
        for value in (*net.parameters(), *net.buffers()):
            distributed.broadcast(value.detach(), src=0)
        if parallel == "fsdp":
            _shard(net, self)
            return step
        from torch.nn.parallel import DistributedDataParallel

        wrapped = DistributedDataParallel(step, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(None, _sum)
        return wrapped

    def quiet(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Where gradients of a part stay at home until the last part of the step."""
        if self.size == 1 or last or not hasattr(module, "no_sync"):
            return nullcontext()
        return module.no_sync()  # type: ignore[no-any-return, operator]


def _part() -> None:
    """Leave the group before the interpreter ends.

    Gloo's threads drop the tensors of the last operation after it is done, for which they need the interpreter's lock;
    one that asks for it while the interpreter ends aborts the process. The group joins its threads when its last
    reference goes, and DDP wrappers in reference cycles hold some.
    """
    if distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _sum(state, bucket):  # type: ignore[no-untyped-def]  # DDP inspects annotations, and mypy does not know them
    """Add the gradients of a bucket over processes; DDP's own way divides by their number."""
    return distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def _shard(net: nn.Module, team: Team) -> None:
    """FSDP2 on the members of each list of blocks, then on what is left."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # shards are cut from flat weights
    mesh = init_device_mesh(team.device.type, (team.size,))
    blocks = [block for part in net.modules() if isinstance(part, nn.ModuleList) for block in part]
    inner = {id(deep) for block in blocks for deep in block.modules() if deep is not block}
    for block in blocks:
        if id(block) not in inner and not isinstance(block, nn.ModuleList | nn.ModuleDict):
            fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def reshard(net: nn.Module) -> None:
    """Drop whole weights that a forward pass without a backward one left behind; nothing where none are sharded."""
    for module in net.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            cast(Any, module).reshard()


def full(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU, also of sharded ones: every process must take part then."""
    whole = {}
    for name, value in values.items():
        v = value.detach()
        v = v.full_tensor() if hasattr(v, "full_tensor") else v
        whole[name] = v.to("cpu").contiguous()
    return whole


@torch.no_grad()
def place(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor laid out as `like`: its device, its memory format, its shards."""
    if hasattr(like, "placements"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
