"""The head of a logit module and LIP as a composition of PyTorch's operators, as released.

This is what the fused operators are tested against and measured by, what a model is exported with,
and what a config chooses with ``implementation='reference'``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lip_mmdet.ops.lip import lip2d
from lip_mmdet.ops.window import IntPair

# exp(64) and sums of it fit float32; past it the general operator takes over.
LARGEST_PLAIN_COEFFICIENT = 64.0


def instance_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, relu: bool = False
) -> Tensor:
    """As :func:`lip_mmdet.ops.instance_norm`, by PyTorch's."""
    if x.shape[2] * x.shape[3] == 1:
        # PyTorch's refuses a single position, which is its own mean. Zero times the weight keeps
        # it in the graph, as DDP wants of every parameter.
        columns = (p.to(x.dtype).view(1, -1, 1, 1) for p in (weight, bias))
        scale, shift = columns
        output = (x - x) * scale + shift
    else:
        output = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    return output.relu_() if relu else output


def gated_lip2d_reference(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    coefficient: float = 12.0,
    eps: float = 1e-5,
    kernel_size: IntPair = 3,
    stride: IntPair = 2,
    padding: IntPair = 1,
) -> Tensor:
    """As :func:`lip_mmdet.ops.gated_lip2d`, one operator after the other.

    Half precision is taken to float32 before the exponential, as autocast does on a GPU.
    """
    logit = instance_norm_reference(raw, weight, bias, eps).sigmoid() * coefficient
    if coefficient > LARGEST_PLAIN_COEFFICIENT:
        return lip2d(x, logit, kernel_size, stride, padding)
    if logit.dtype in (torch.float16, torch.bfloat16):
        logit = logit.float()
    importance = logit.exp()
    kernel_size, stride, padding = (
        tuple(v) if isinstance(v, (tuple, list)) else v for v in (kernel_size, stride, padding)
    )
    weighted = F.avg_pool2d(x * importance, kernel_size, stride, padding)
    return (weighted / F.avg_pool2d(importance, kernel_size, stride, padding)).to(x.dtype)
