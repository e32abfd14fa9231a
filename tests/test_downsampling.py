"""LIP takes the place of a layer exactly: with importance at the centre of each window alone (a
delta), or everywhere the same, it computes what PyTorch's own layers do."""

import pytest
import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn

from lip_mmdet.layers import record_importance
from lip_mmdet.layers.downsampling import downsample_by, lip_for_conv, lip_for_pool, why_not

SIZES = ((12, 13), (13, 12), (9, 15))
KINDS = {
    '3x3': (nn.Conv2d, dict(kernel_size=3, padding=1)),
    '1x1': (nn.Conv2d, dict(kernel_size=1)),
    '7x5 by 3x2': (nn.Conv2d, dict(kernel_size=(7, 5), padding=(3, 2), stride=(3, 2))),
    'dilated': (nn.Conv2d, dict(kernel_size=3, padding=2, dilation=2)),
    'depthwise': (nn.Conv2d, dict(kernel_size=3, padding=1, groups=4)),
    'without padding': (nn.Conv2d, dict(kernel_size=3)),
    'with more padding': (nn.Conv2d, dict(kernel_size=3, padding=2)),
    'even': (nn.Conv2d, dict(kernel_size=2)),
    'even by 3': (nn.Conv2d, dict(kernel_size=4, padding=1, stride=3)),
    'adaptive': (Conv2dAdaptivePadding, dict(kernel_size=3)),
    'adaptive 5x5': (Conv2dAdaptivePadding, dict(kernel_size=5, stride=3)),
}


class Delta(nn.Module):
    """A logit that leaves importance to positions ``first + n * stride``."""

    def __init__(self, in_channels, first, stride):
        super().__init__()
        self.first, self.stride = first, stride

    def forward(self, x):
        logit = torch.full_like(x, -1e4)
        logit[:, :, self.first[0] :: self.stride[0], self.first[1] :: self.stride[1]] = 0
        return logit


def first_centres(conv, size):
    """Where the first window's centre is; half a position before it for even kernels."""
    first = []
    for n, k, s, p, d in zip(size, conv.kernel_size, conv.stride, conv.padding, conv.dilation):
        if isinstance(conv, Conv2dAdaptivePadding):  # as TensorFlow's "same"
            p = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) // 2
        first.append(d * (k - 1) // 2 - p)
    return first


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', KINDS)
def test_a_convolution_at_stride_1_with_a_delta(name, size):
    kind, arguments = KINDS[name]
    conv = kind(4, 8, **dict(dict(stride=2), **arguments)).double()
    x = torch.rand(2, 4, *size, dtype=torch.float64)
    expected, stride, first = conv(x), conv.stride, first_centres(conv, size)
    adaptive, reason = why_not(conv, size, expected.shape[2:], 'before', True)
    assert not reason and adaptive == (kind is Conv2dAdaptivePadding)

    if kind is nn.Conv2d:
        after = copy_of(conv, kind, arguments)
        logit = dict(type=Delta, first=(0, 0), stride=stride)
        downsample_by(after, lip_for_conv(after, logit, 'after', False), 'after', False)
        torch.testing.assert_close(after(x), expected, rtol=1e-10, atol=1e-10)
    if name == 'with more padding':
        return  # some centres are in the padding, where nothing has importance

    centres = [[f + i * s for i in range(n)] for f, s, n in zip(first, stride, expected.shape[2:])]
    reach = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation)]
    picked = nn.functional.pad(
        x[:, :, centres[0]][..., centres[1]],
        [margin for r in reversed(reach) for margin in (r // 2, r - r // 2)],
    )
    at_stride_1 = nn.functional.conv2d(
        picked, conv.weight, conv.bias, 1, 0, conv.dilation, conv.groups
    )
    logit = dict(type=Delta, first=first, stride=stride)
    downsample_by(conv, lip_for_conv(conv, logit, 'before', adaptive), 'before', adaptive)
    torch.testing.assert_close(conv(x), at_stride_1, rtol=1e-10, atol=1e-10)


def copy_of(conv, kind, arguments):
    other = kind(4, 8, **dict(dict(stride=2), **arguments)).double()
    other.load_state_dict(conv.state_dict())
    return other


@pytest.mark.parametrize('order', ['before', 'after'])
@pytest.mark.parametrize('name', KINDS)
def test_a_convolution_keeps_its_shapes_and_gets_gradients(name, order):
    kind, arguments = KINDS[name]
    conv = kind(4, 8, **dict(dict(stride=2), **arguments))
    shapes = [conv(torch.rand(1, 4, *size)).shape for size in SIZES]
    adaptive, reason = why_not(conv, SIZES[0], shapes[0][2:], order, True)
    if order == 'after' and kind is Conv2dAdaptivePadding:
        assert 'no plain convolution' in reason
        return
    lip = lip_for_conv(conv, dict(type='mmdet.ProjectionLogit'), order, adaptive)
    downsample_by(conv, lip, order, adaptive)
    nn.init.normal_(lip.logit.conv.weight)
    for size, shape in zip(SIZES, shapes):
        output = conv(torch.rand(1, 4, *size))
        assert output.shape == shape
        output.square().mean().backward()
        for parameter in conv.parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('ceil_mode', [False, True])
@pytest.mark.parametrize(
    'window', [(3, 2, 1), (2, 2, 0), (3, 2, 0), (5, 3, 2), ((2, 3), (2, 1), 0)]
)
def test_a_pool_with_its_own_logit(window, ceil_mode, size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    average = nn.AvgPool2d(*window, ceil_mode=ceil_mode, count_include_pad=False)
    lip = lip_for_pool(average, 3, dict(type='mmdet.IdentityLogit', scale=0.0))
    with record_importance(lip) as maps:
        torch.testing.assert_close(lip(x), average(x), rtol=1e-10, atol=1e-10)
    assert maps[''].selectivity.abs().max() < 1e-10  # at borders, too
    largest = nn.MaxPool2d(*window, ceil_mode=ceil_mode)
    lip = lip_for_pool(largest, 3, dict(type='mmdet.IdentityLogit', scale=1e8))
    torch.testing.assert_close(lip(x), largest(x), rtol=0, atol=1e-6)
    assert lip.stands_for_max


@pytest.mark.parametrize(
    ('layer', 'reason'),
    [
        (nn.MaxPool2d(3, 2, 1, dilation=2), 'dilation'),
        (nn.AvgPool2d(2, divisor_override=3), 'divisor'),
        (nn.Conv2d(3, 3, 3, 2, padding_mode='reflect'), 'padding of its own'),
        (nn.Conv2d(3, 3, 1, 2, padding=2), 'looks at padding alone'),
        (nn.PixelUnshuffle(2), 'is a PixelUnshuffle'),
    ],
)
def test_what_cannot_be_replaced_says_why(layer, reason):
    given = layer(torch.rand(1, 3, 12, 14)).shape[2:]
    said = why_not(layer, (12, 14), given, 'before', isinstance(layer, nn.Conv2d))[1]
    assert reason in said
