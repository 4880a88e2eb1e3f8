"""ZeRO-2 in less memory: gradients are added up in place, and weights are updated in groups.

For each group of the optimizer DeepSpeed makes a flat copy of the gradients, and another in
float32, and frees both before the next group. So the groups are split. What is computed for a
weight does not depend on its group.

DeepSpeed keeps the sum of earlier micro-batches beside the gradients of the present one until the
backward pass ends: two gradients of all weights. It also copies each gradient into a bucket in
order to reduce it over the ranks, and from there into a flat tensor, even if there is one rank.
`save_memory` changes an optimizer of DeepSpeed so that

- a gradient is added to the sum as soon as it is reduced, and then freed;
- one rank uses no buckets;
- norms are computed in pieces, because DeepSpeed converts what it measures to float64.

The additions are the same, so that losses stay bit for bit what they were.

Source: deepspeed/runtime/zero/stage_1_and_2.py, version 0.19.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from jobspec.estimates import memory
from jobspec.records.checkpoint import CheckpointManifest
from jobspec.spec.schema import TrainSpec

_NORM_ELEMENTS = 1 << 24  # converted to float64 at once


def group_elements(
    train: TrainSpec, trained: int, resumed: CheckpointManifest | None
) -> int | None:
    """The most elements of a group; None if groups are not split. A resumed run keeps its groups.

    Args:
        trained: the number of trained weights.
        resumed: of the checkpoint that the run resumes from.
    """
    if resumed is not None:
        return resumed.group_elements
    if train.zero_stage != 2:
        return None
    return memory.group_elements(trained, dist.get_world_size())


def split_groups(groups: Iterable[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Split groups into smaller ones with the same settings, in the order of their parameters.

    Args:
        groups: an optimizer's `param_groups`.
        most: elements of a group. A single parameter may have more.
    """
    return [group | {"params": part} for group in groups for part in _parts(group["params"], most)]


def _parts(parameters: Iterable[Any], most: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    elements = 0
    for parameter in parameters:
        if part and elements + parameter.numel() > most:
            yield part
            part, elements = [], 0
        part.append(parameter)
        elements += parameter.numel()
    if part:
        yield part


def save_memory(optimizer: Any) -> None:
    """Change ZeRO-2's optimizer as described above; others, and an offloaded one, are left alone.

    Call it before the first backward pass.
    """
    if type(optimizer) is DeepSpeedZeroOptimizer and not optimizer.cpu_offload:
        optimizer.__class__ = InPlaceZeroOptimizer
        alone = dist.get_world_size(optimizer.dp_process_group) == 1
        vars(optimizer).update(sums={}, alone=alone)


class InPlaceZeroOptimizer(DeepSpeedZeroOptimizer):
    """DeepSpeed's optimizer of ZeRO-2.

    Attributes:
        sums: the gradient of each parameter over the step's earlier micro-batches.
        alone: whether there is one rank, so that nothing is reduced.
    """

    sums: dict[torch.Tensor, torch.Tensor]
    alone: bool

    def process_gradients(self, param: Any, i: int) -> None:
        """Called for each parameter when its gradient is complete."""
        if self.alone:
            self._add(param)
        else:
            super().process_gradients(param, i)

    def copy_grads_in_partition(self, param: Any, group_idx: int | None = None) -> None:
        """Called for each parameter of this rank's part when its gradient is reduced."""
        if not self._add(param):
            super().copy_grads_in_partition(param, group_idx)

    def _add(self, param: Any) -> bool:
        """Add a gradient to those of earlier micro-batches, if there are any, and free it."""
        total = self.sums.get(param)
        if total is None:
            return False
        total.add_(param.grad.view_as(total))
        param.grad = None
        return True

    def reduce_ipg_grads(self, comm_dtype: Any = None) -> None:
        if not self.alone:  # otherwise there are no buckets
            super().reduce_ipg_grads(comm_dtype)

    def get_all_grad_tensors(self, tensor_list: list[Any], dtype: Any) -> list[torch.Tensor]:
        """The gradients so far of this rank's part of a group."""
        found: list[torch.Tensor] = []
        for param in tensor_list:
            total = self.sums.get(param)
            found += [total] if total is not None else super().get_all_grad_tensors([param], dtype)
        return found

    def independent_gradient_partition_epilogue(self) -> None:
        """Called at the end of each micro-batch's backward pass."""
        self.all_grad_tensors = {}  # `super` would add the gradients to these
        super().independent_gradient_partition_epilogue()
        self.sums = {}
        for group, gradients in self.all_grad_tensors.items():
            if gradients is not None:  # None after the last micro-batch
                self.sums |= zip(self.params_in_partition[group], gradients, strict=True)

    def get_grad_norm_direct(self, gradients: Any, params: Any, norm_type: int = 2) -> Any:
        used = [each for each in gradients if not getattr(each, "_zero_padding", False)]
        pieces = [
            (piece, param)
            for gradient, param in zip(used, params, strict=False)
            for piece in gradient.reshape(-1).split(_NORM_ELEMENTS)
        ]
        return super().get_grad_norm_direct(
            [piece for piece, _ in pieces], [param for _, param in pieces], norm_type
        )
