"""Normalization, gate and LIP against their composition, PyTorch's pools and a copy.

Needs torch and nothing else: ``python -m lip_mmdet.benchmark.operators`` runs it.
"""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lip_mmdet.benchmark.measure import interleave, summarize
from lip_mmdet.ops import formula, gated_lip2d

STEM_SHAPE = (1, 64, 400, 672)

# Maps of the input's size that each case moves between memory and processor in the forward pass,
# counted by hand; a pooled map is a quarter. For LIP the least possible is 2.25: read the input and
# the raw logit, write the result.
MAPS_MOVED = {
    'fused': 3.25,  # the raw logit twice, for its statistics and then its weights
    'composed': 16.25,  # norm 4, sigmoid 2, mul 2, exp 2, mul 3, pools 1.25 each, div 0.75
    'max_pool2d': 1.25,
    'avg_pool2d': 1.25,
    'copy': 2.0,
}
LEAST_MAPS = {'fused': 2.25, 'composed': 2.25}


def measure_operators(
    shape: tuple[int, int, int, int] = STEM_SHAPE,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    backward: bool = False,
    device: str = 'cpu',
    repeats: int = 15,
    compiled: bool = False,
) -> list[dict]:
    """Time the operators on maps of one shape, one dtype and one memory format.

    Args:
        shape: (N, C, H, W) of the map to pool; default: a stem's at 1344x800.
        dtype: of the maps.
        channels_last: their memory format; else contiguous.
        backward: time forward and backward together.
        device: ``'cpu'`` or ``'cuda'``.
        repeats: timed runs of each.
        compiled: time the composition under ``torch.compile``, too.

    Returns:
        One row for each: milliseconds, ratio to the copy, bytes and rate; and how far the results
        of ``fused`` (the output, or the gradients) are from those of ``composed``, over their
        largest value.
    """
    x, raw, weight, bias = _inputs(shape, dtype, channels_last, device, backward)
    cases = {
        'fused': lambda: gated_lip2d(x, raw, weight, bias),
        'composed': lambda: formula.gated_lip2d(x, raw, weight, bias),
        'max_pool2d': lambda: F.max_pool2d(x, 3, 2, 1),
        'avg_pool2d': lambda: F.avg_pool2d(x, 3, 2, 1),
        'copy': lambda: x.clone(),
    }
    if compiled:
        operator = torch.compile(formula.gated_lip2d, dynamic=True)
        cases['compiled'] = lambda: operator(x, raw, weight, bias)
    if backward:
        cases = {name: _with_backward(run, (x, raw)) for name, run in cases.items()}
    results = {name: cases[name]() for name in ('fused', 'composed')}
    deviation = _deviation(*(r if backward else (r,) for r in results.values()))
    rows = summarize(interleave(cases, repeats, device), baseline='copy')
    size = x.numel() * x.element_size()
    for row in rows:
        row.update(
            shape='x'.join(map(str, shape)),
            layout='channels_last' if channels_last else 'contiguous',
            dtype=str(dtype).replace('torch.', ''),
            what='forward and backward' if backward else 'forward',
        )
        if row['case'] == 'fused':
            row['deviation'] = deviation
        if not backward and row['case'] in MAPS_MOVED:
            moved = MAPS_MOVED[row['case']]
            row.update(
                megabytes=moved * size / 1e6,
                over_least=moved / LEAST_MAPS.get(row['case'], moved),
                gigabytes_per_second=moved * size / 1e6 / row['milliseconds'],
            )
    return rows


def _inputs(
    shape: tuple, dtype: torch.dtype, channels_last: bool, device: str, grad: bool
) -> list[Tensor]:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = [
        torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
        for _ in range(2)
    ]
    affine = [torch.randn(shape[1], device=device) for _ in range(2)]
    return [t.requires_grad_(grad) for t in (*maps, *affine)]


def _with_backward(forward: Callable[[], Tensor], inputs: tuple) -> Callable[[], tuple]:
    def run() -> tuple:
        output = forward()
        return torch.autograd.grad(output, inputs, torch.ones_like(output), allow_unused=True)

    return run


def _deviation(results: tuple, expected: tuple) -> float:
    """Return the largest difference over the largest value, of the worst pair of tensors."""
    pairs = [(a.double(), b.double()) for a, b in zip(results, expected)]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


if __name__ == '__main__':
    for layout in (False, True):
        for row in measure_operators(channels_last=layout):
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
