"""Run the GPU's kernels on CPU tensors; ``TRITON_INTERPRET=1`` must be set before Triton loads."""

import itertools

import torch
from test_gated_lip2d import LAYOUTS, WINDOWS, assert_close, formula, gradients, inputs

from lip_mmdet.ops import gated_lip, gated_lip2d

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def main():
    gated_lip._has_kernels = lambda raw: True
    for window, layout in itertools.product(WINDOWS, LAYOUTS):
        check((2, 3, 7, 5), window, layout, torch.float32)
    for dtype, layout in itertools.product(TOLERANCES, LAYOUTS):
        check((1, 3, 13, 19), (3, 2, 1), layout, dtype)
    check((0, 3, 6, 6), (3, 2, 1), LAYOUTS[0], torch.float32)
    check((2, 4, 1, 1), (3, 2, 1), LAYOUTS[0], torch.float32)


def check(shape, window, layout, dtype):
    arguments = inputs(shape, dtype, layout)
    exact = [a.detach().double().requires_grad_() for a in arguments]
    output, expected = gated_lip2d(*arguments, 12.0, 1e-5, *window), formula(*exact, window)
    tolerance = TOLERANCES[dtype]
    assert_close([output], [expected], tolerance)
    assert_close(gradients(output, arguments), gradients(expected, exact), tolerance)
    with torch.no_grad():
        assert_close([gated_lip2d(*arguments, 12.0, 1e-5, *window)], [expected], tolerance)
