"""Data-parallel training under ``torchrun``: each process takes its share of every batch, and all end with the same weights.

The result is that of one process with the whole batch, up to rounding: batch normalisation forms its statistics over all
shares, and a loss is computed by every process from the outputs of all (`gathered`), so no loss needs to know that it is
shared; its gradient reaches each process's own share, and the sum of the gradients is the whole one. Alone, nothing of this does anything.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrdan_edge.errors import TrainingError

_LAUNCHED = "TORCHELASTIC_RUN_ID"  # what torchrun sets, and a cluster's own variables do not
_PATIENCE = timedelta(hours=1)  # for one process that decodes while the others wait


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: Which of them this is; 0 writes and speaks.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """This process's places in a batch.

        Raises:
            TrainingError: The batch cannot be shared equally.
        """
        if batch_size % self.size:
            fit = -(-batch_size // self.size) * self.size
            raise TrainingError(f"batches of {batch_size} cannot be shared by {self.size} processes: give --batch-size {fit}")
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def anyone(self, here: bool) -> bool:
        """Whether it is true in any process."""
        if self.size == 1:
            return here
        asked = torch.tensor(float(here), device=_communication_device())
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked.item())

    def agree(self, number: int) -> int:
        """The first process's number, in all of them."""
        if self.size == 1:
            return number
        said = torch.tensor(number, device=_communication_device())
        dist.broadcast(said, 0)
        return int(said.item())


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """The processes that ``torchrun`` started, joined over NCCL or Gloo; this one alone where it did not start any.

    Raises:
        TrainingError: This PyTorch cannot join processes.
    """
    if _LAUNCHED not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    if not dist.is_available():
        raise TrainingError(
            "this PyTorch was built without torch.distributed: train without torchrun, or install another build"
        )
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def shared() -> bool:
    """Whether other processes train too."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(*shares: Tensor) -> Sequence[Tensor]:
    """Each tensor with the other processes' shares around it, in the batch's order.

    Args:
        shares: This process's shares, float [n, ...], through which gradients may flow.

    Returns:
        For each, float [N, ...]; gradients flow through this process's share alone.
    """
    if not shared():
        return shares
    whole = []
    for share in shares:
        parts = [torch.empty_like(share, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, share.detach().contiguous())
        parts[dist.get_rank()] = share
        whole.append(torch.cat(parts))
    return whole


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum every parameter's gradient over the processes, in one message."""
    if not shared():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def synchronise(networks: nn.Module) -> None:
    """Give every process the first one's weights, and batch normalisation the statistics of the whole batch; in place."""
    if not shared():
        return
    for tensor in networks.state_dict().values():
        dist.broadcast(tensor, 0)
    for module in list(networks.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SharedBatchNorm2d.of(child))


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes; PyTorch's own (SyncBatchNorm) needs GPUs."""

    @classmethod
    def of(cls, layer: nn.BatchNorm2d) -> "SharedBatchNorm2d":
        """The same layer, with the very parameters and buffers of `layer`."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        new._parameters, new._buffers = layer._parameters, layer._buffers
        return new.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: This process's share, float [n, C, h, w].

        Returns:
            The same shape and type.
        """
        if not self.training:
            return super().forward(x)
        values = x.double() if x.dtype == torch.float64 else x.float()
        count = values.numel() / values.shape[1] * dist.get_world_size()
        mean: Tensor = _Sum.apply(values.mean((0, 2, 3))) / dist.get_world_size()  # type: ignore[no-untyped-call]
        centred = values - mean[:, None, None]
        variance: Tensor = _Sum.apply(centred.square().sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: object, here: Tensor) -> Tensor:  # noqa: ARG004
        total = here.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _communication_device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
