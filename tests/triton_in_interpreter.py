"""Run the GPU's kernels on CPU tensors; ``TRITON_INTERPRET=1`` must be set before Triton loads."""

import itertools

import torch
from test_gated_lip2d import LAYOUTS, WINDOWS, assert_close, formula, gradients, inputs

from lip_mmdet.ops import (
    gated_lip2d,
    instance_norm,
    instance_norm_reference,
    kernels,
    triton_blocks,
    triton_gated_lip,
    triton_instance_norm,
)

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def main():
    kernels.has_kernels = lambda x: True
    for dtype, layout in itertools.product(TOLERANCES, LAYOUTS):
        check_pooling((1, 3, 13, 19), (3, 2, 1), layout, dtype)
        check_normalization((1, 3, 13, 19), layout, dtype)
    check_statistics_of_maps_far_from_zero()
    check_parameters_that_are_views()
    check_nan_stays_in_its_map()
    check_the_wider_dtype_of_two()
    check_pooling((0, 3, 6, 6), (3, 2, 1), LAYOUTS[0], torch.float32)
    check_pooling((2, 4, 1, 1), (3, 2, 1), LAYOUTS[0], torch.float32)
    check_normalization((2, 4, 1, 1), LAYOUTS[0], torch.float32)
    use_small_blocks()
    for window, layout in itertools.product(WINDOWS, LAYOUTS):
        check_pooling((1, 3, 7, 5), window, layout, torch.float32)
    for layout in LAYOUTS:
        check_pooling((2, 3, 5, 6), (3, 2, 1), layout, torch.float64)
        check_normalization((2, 3, 4, 5), layout, torch.float64)


def use_small_blocks():
    """Cut small maps, too, into several blocks along each side, the last of them not full."""
    triton_blocks.LARGEST_CHANNEL_BLOCK = 2
    triton_instance_norm.CHUNKS = 4
    triton_instance_norm.BLOCK = dict(rows=2, contiguous=4, channels_last=8)
    triton_gated_lip.FORWARD_BLOCK = dict(rows=2, contiguous=2, channels_last=4)
    triton_gated_lip.BACKWARD_BLOCK = dict(rows=2, contiguous=2, channels_last=4)


def check_pooling(shape, window, layout, dtype):
    arguments = inputs(shape, dtype, layout)
    exact = [a.detach().double().requires_grad_() for a in arguments]
    output, expected = gated_lip2d(*arguments, 12.0, 1e-5, *window), formula(*exact, window)
    tolerance = TOLERANCES[dtype]
    assert_close([output], [expected], tolerance)
    assert_close(gradients(output, arguments), gradients(expected, exact), tolerance)
    with torch.no_grad():
        assert_close([gated_lip2d(*arguments, 12.0, 1e-5, *window)], [expected], tolerance)


def check_normalization(shape, layout, dtype):
    _, *arguments = inputs(shape, dtype, layout)
    exact = [a.detach().double().requires_grad_() for a in arguments]
    for relu in (False, True):
        output = instance_norm(*arguments, relu=relu)
        expected = instance_norm_reference(*exact, relu=relu)
        assert_close([output], [expected], TOLERANCES[dtype])
        grads = gradients(output, arguments)
        # Where half precision rounds to either side of zero, ReLU passes one gradient or none.
        if not relu or dtype in (torch.float32, torch.float64):
            assert_close(grads, gradients(expected, exact), TOLERANCES[dtype])
    with torch.no_grad():
        overwritten = arguments[0].detach().clone(memory_format=torch.preserve_format)
        result = instance_norm(overwritten, *arguments[1:], relu=True, inplace=True)
        assert result is overwritten
        assert_close([result], [output], 0)


def check_statistics_of_maps_far_from_zero():
    """A mean of ten thousand deviations, and rows that are unlike one another, cost no digits."""
    for layout in LAYOUTS:
        raw = inputs((2, 3, 40, 37), torch.float32, layout)[1].detach()
        raw[0] += 1e4
        raw[1, :, 3] += 100
        mean, rstd = triton_instance_norm.statistics(raw, 1e-5)
        variance, expected = torch.var_mean(raw.double(), (2, 3), unbiased=False)
        torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rstd.double(), (variance + 1e-5).rsqrt(), rtol=2e-6, atol=0)


def check_parameters_that_are_views():
    """Every second element of others, or one element for all channels."""
    x, raw, weight, bias = inputs((1, 4, 5, 6), torch.float32)
    pairs = torch.stack([weight, bias], 1)
    views = [pairs[:, 0], pairs[:, 1]], [weight[:1].expand(4), bias[1:2].expand(4)]
    for parameters in views:
        copies = [p.detach().clone().requires_grad_() for p in parameters]
        for function in (lambda *p: gated_lip2d(x, raw, *p), lambda *p: instance_norm(raw, *p)):
            output, expected = function(*parameters), function(*copies)
            assert_close([output], [expected], 0)
            assert_close(gradients(output, [raw]), gradients(expected, [raw]), 0)


def check_nan_stays_in_its_map():
    """And is not lost there: training goes by it to see that it diverged."""
    for layout in LAYOUTS:
        x, raw, weight, bias = (t.detach() for t in inputs((2, 3, 5, 6), torch.float32, layout))
        raw[1, 2, 3, 4] = torch.nan
        results = gated_lip2d(x, raw, weight, bias), instance_norm(raw, weight, bias, relu=True)
        for result in results:
            unknown = result.isnan()
            assert unknown[1, 2].all()
            assert unknown.sum() == unknown[1, 2].sum()


def check_the_wider_dtype_of_two():
    """A map to pool in float64 leaves the logit's gradient in the logit's dtype."""
    arguments = inputs((1, 3, 5, 6), torch.bfloat16)
    arguments[0] = arguments[0].detach().double().requires_grad_()
    exact = [a.detach().double().requires_grad_() for a in arguments]
    output, expected = gated_lip2d(*arguments), formula(*exact, (3, 2, 1))
    assert_close([output], [expected], 1e-5)
    grads = gradients(output, arguments)
    assert [g.dtype for g in grads] == [a.dtype for a in arguments]
    assert_close(grads, gradients(expected, exact), 3e-2)
