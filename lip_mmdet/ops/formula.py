"""The paper's formulas by PyTorch's operators (arXiv 1908.04156, sections 3.2 and 3.4).

They judge the fused operators of the same names, which are tested against them. They are what is
traced, compiled, exported and differentiated twice, and what ``implementation='composed'`` runs.
"""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.ops.window import IntPair, Window, check_affine, check_maps

# Up to here exp(coefficient), and sums and sensible products of it, fit float32. Past it each
# window needs its own maximum.
LARGEST_COEFFICIENT = 64.0
# PyTorch 2.1 has the first question elsewhere, older ones have none of them.
_COMPILER = getattr(torch, 'compiler', None)
if _COMPILER and not hasattr(_COMPILER, 'is_compiling'):
    _COMPILER = importlib.import_module('torch._dynamo')
_READS = [getattr(_COMPILER, name, bool) for name in ('is_compiling', 'is_exporting')]


def lip2d(
    x: Tensor, logit: Tensor, kernel_size: IntPair = 3, stride: IntPair = 2, padding: IntPair = 1
) -> Tensor:
    """As :func:`lip_mmdet.ops.lip2d`: softmax over a window's members, which are copied for it."""
    window = Window.parse(kernel_size, stride, padding)
    check_maps(x=x, logit=logit)
    window.check_fits(x)
    dtype = torch.float64 if torch.float64 in (x.dtype, logit.dtype) else torch.float32
    shares = members(logit.to(dtype), window, -float('inf')).softmax(0)
    return (shares * members(x.to(dtype), window, 0.0)).sum(0).to(x.dtype)


def members(maps: Tensor, window: Window, padding: float) -> Tensor:
    """Return the members of all windows, (of a window, N, C, H', W')."""
    (height, width), (down, right), (rows, columns) = window
    maps = F.pad(maps, (columns, columns, rows, rows), value=padding)
    last, end = maps.shape[2] - height + 1, maps.shape[3] - width + 1
    # Slices, for with `unfold` inductor compiles no gradient for sizes that vary.
    slices = [maps[:, :, i : last + i : down] for i in range(height)]
    return torch.stack([s[..., j : end + j : right] for s in slices for j in range(width)])


def instance_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, relu: bool = False
) -> Tensor:
    """As :func:`lip_mmdet.ops.instance_norm`, by PyTorch's."""
    check_affine(x, weight, bias)
    if x.shape[2] * x.shape[3] == 1:
        # PyTorch's refuses a single position, which is its own mean. Zero times the weight keeps
        # it in the graph, as DDP wants of every parameter.
        scale, shift = (p.to(x.dtype).view(1, -1, 1, 1) for p in (weight, bias))
        output = (x - x) * scale + shift
    else:
        output = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    return output.relu() if relu else output


def gated_lip2d(
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
    """As :func:`lip_mmdet.ops.gated_lip2d`, as released; `exp` in float32, as under autocast."""
    window = Window.parse(kernel_size, stride, padding)
    check_maps(x=x, raw=raw)
    window.check_fits(x)
    check_coefficient(coefficient)
    logit = instance_norm(raw, weight, bias, eps).sigmoid() * coefficient
    if coefficient > LARGEST_COEFFICIENT:
        return lip2d(x, logit, *window)
    importance = (logit.float() if logit.dtype in (torch.float16, torch.bfloat16) else logit).exp()
    weighted = _average(x * importance, window)
    return (weighted / _average(importance, window)).to(x.dtype)


def _average(maps: Tensor, window: Window) -> Tensor:
    # Off the CPU PyTorch's gradient of padded pooling is wrong for channels_last maps, without a
    # word: its issues 188344 (CUDA, torch 2.11 among others) and 175190 (MPS).
    return F.avg_pool2d(maps if maps.device.type == 'cpu' else maps.contiguous(), *window)


def check_coefficient(coefficient: float) -> None:
    if not coefficient > 0:
        raise InputError(f'the soft gate needs a positive coefficient, not {coefficient}')


def is_wanted(x: Tensor) -> bool:
    """Whether a program is read rather than run: traced, compiled, exported, or without values."""
    if any(asked() for asked in _READS) or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return True
    return x.is_meta or not (type(x) is Tensor or isinstance(x, nn.Parameter))


def check_first_derivative() -> None:
    """Raise, in a fused operator's backward pass, if somebody means to differentiate it again."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            'the fused operators of LIP have first derivatives only; for create_graph=True and '
            "second derivatives use implementation='composed' (lip_mmdet.ops.formula)"
        )
