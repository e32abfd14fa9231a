"""The networks that the study compares LIP with, against the operations that they stand for."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.resnet import ResNet
from mmdet.registry import MODELS
from scipy.ndimage import convolve1d
from torch import nn

from lip_mmdet.errors import InputError
from lip_mmdet.study.rivals import BlurPool2d


@pytest.mark.parametrize('size', [(8, 6), (7, 9)])
def test_blur_pool_is_the_filter_then_every_second_position(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    blurred = x.numpy()
    for axis in (2, 3):
        blurred = convolve1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode='mirror')
    torch.testing.assert_close(BlurPool2d()(x).numpy(), blurred[:, :, ::2, ::2])


@pytest.mark.parametrize('name', ['BlurPoolResNet', 'SPDResNet'])
@pytest.mark.parametrize('depth', [18, 34])
def test_rivals_give_maps_of_resnets_sizes_and_stride_nowhere_else(name, depth):
    image = torch.rand(1, 3, 64, 96)
    norm = dict(type='GN', num_groups=32) if depth == 34 else dict(type='BN')
    rival, plain = MODELS.build(dict(type=name, depth=depth, norm_cfg=norm)), ResNet(depth)
    rival.init_weights()
    assert [f.shape for f in rival(image)] == [f.shape for f in plain(image)]
    layers = [(k, m) for k, m in rival.named_modules() if isinstance(m, (nn.Conv2d, nn.MaxPool2d))]
    strided = [name for name, layer in layers if layer.stride not in (1, (1, 1))]
    assert strided == (['conv1'] if name == 'BlurPoolResNet' else [])


def test_a_blur_pool_block_blurs_where_its_author_does():
    block = MODELS.build(dict(type='BlurPoolResNet', depth=18)).layer2[0].eval()
    x = torch.rand(2, 64, 12, 16)
    blur, out = BlurPool2d(), F.relu(block.bn1(F.conv2d(x, block.conv1.weight, padding=1)))
    out = block.bn2(F.conv2d(blur(out), block.conv2[1].weight, padding=1))
    out += block.downsample[2](F.conv2d(blur(x), block.downsample[1].weight))
    torch.testing.assert_close(block(x), F.relu(out))


def test_a_spd_block_can_be_the_strided_block_it_stands_for():
    plain = ResNet(18).layer2[0].eval()
    block = MODELS.build(dict(type='SPDResNet', depth=18)).layer2[0].eval()
    # Along an axis, the positions -1, 0 and 1 around every second one lie in the pairs -1, 0 and 0.
    pairs = {-1: (-1, 1), 0: (0, 0), 1: (0, 1)}
    for spd, conv in (
        (block.conv1[1], plain.conv1),
        (block.downsample[0][1], plain.downsample[0]),
    ):
        nn.init.zeros_(spd.weight)
        centre, middle = spd.kernel_size[0] // 2, conv.kernel_size[0] // 2
        taps = range(-middle, middle + 1)
        for i, j in ((i, j) for i in taps for j in taps):
            (row, lower), (column, right) = pairs[i], pairs[j]
            tap = conv.weight.data[:, :, middle + i, middle + j]
            spd.weight.data[:, 2 * lower + right :: 4, centre + row, centre + column] = tap
    others = {k: v for k, v in plain.state_dict().items() if k in block.state_dict()}
    block.load_state_dict(others, strict=False)
    x = torch.rand(2, 64, 12, 16)
    torch.testing.assert_close(block(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'changes', [{'depth': 50}, {'deep_stem': True}, {'avg_down': True}, {'frozen_stages': 1}]
)
def test_rivals_of_other_networks_are_refused(changes):
    with pytest.raises(InputError, match=r'for depth 18 and 34|no weights to freeze'):
        MODELS.build(dict(type='SPDResNet', **{'depth': 18, **changes}))
