"""A frozen base divided among the processes of a run, its adapters whole in each.

Adapters are small and the base is not, so only the base is sharded (FSDP2, `fully_shard`): a block is gathered when it
runs and let go afterwards. What is trained stays plain parameters, the same in each process, whose gradients are
averaged at the end of a step. So checkpoints, optimizer states and shared factors are what they are in one process.

Source: PyTorch FSDP2 (`torch.distributed.fsdp.fully_shard`), `ignored_params`.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from spectral_ft.processes import process_count


def shard_base(model: PreTrainedModel) -> None:
    """Divide what is not trained among the processes, block by block.

    Args:
        model: The base inside an adapted model, with its adapters; the same in each process.
    """
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (process_count(),))
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, ignored_params=whole)


def average_gradients(parameters: Iterable[torch.nn.Parameter], *, at_end_of_step: Callable[[], bool]) -> None:
    """Start from the first process's values, and average gradients over the processes.

    Args:
        parameters: Those that each process holds whole.
        at_end_of_step: Whether the micro batch whose gradient is added is the last one of its step.
    """

    def average(parameter: torch.Tensor) -> None:
        if at_end_of_step() and parameter.grad is not None:
            dist.all_reduce(parameter.grad)  # a sum: gloo knows no average
            parameter.grad /= process_count()

    for parameter in parameters:
        with torch.no_grad():
            dist.broadcast(parameter.data, src=0)
        parameter.register_post_accumulate_grad_hook(average)
