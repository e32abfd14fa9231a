"""Padding: with ``mask_padding`` an image's features do not depend on the batch that it is in."""

import pytest
import torch
from mmdet.models import ResNet
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from seeded_weights import seeded_image, seeded_state_dict

from lip_mmdet import plugin  # noqa: F401
from lip_mmdet.backbones import LIPDenseNet, LIPResNet
from lip_mmdet.errors import InputError

SMALL = dict(base_channels=8)
SIZES = [(64, 96), (128, 64)]


def seeded(net):
    """Draw all weights, so that nothing is switched off as at the start of a training."""
    net.load_state_dict(seeded_state_dict({k: v.shape for k, v in net.state_dict().items()}))
    net.eval()  # MMDetection's returns None
    return net


def images_in_a_batch(sizes=SIZES):
    """Return float64 images, each alone as a batch of one, and a batch that pads them."""
    generator = torch.Generator().manual_seed(0)
    alone = [torch.randn(1, 3, *s, generator=generator, dtype=torch.float64) for s in sizes]
    canvas = [max(n) for n in zip(*sizes)]
    batch = torch.zeros(len(sizes), 3, *canvas, dtype=torch.float64)
    for image, (height, width), place in zip(alone, sizes, batch):
        place[:, :height, :width] = image[0]
        image.valid_sizes = [(height, width)]
    batch.valid_sizes = sizes
    return alone, batch


@pytest.mark.parametrize(
    'net',
    [
        lambda: LIPResNet(18, mask_padding=True, **SMALL),
        lambda: LIPResNet(50, mask_padding=True, implementation='composed', **SMALL),
        lambda: LIPResNet(
            50,
            mask_padding=True,
            plugins=[dict(cfg=dict(type='SGE', groups=4), position='after_conv3')],
            dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, True),
            **SMALL,
        ),
        lambda: LIPResNet(50, mask_padding=True, style='caffe', deep_stem=True, **SMALL),
        lambda: LIPDenseNet(121, mask_padding=True, growth_rate=4, stem_channels=8),
    ],
)
def test_features_are_those_of_the_image_alone(net):
    net = seeded(net()).double()
    alone, batch = images_in_a_batch()
    with torch.no_grad():
        features = net(batch)
        for i, image in enumerate(alone):
            for feature, expected in zip(features, net(image)):
                own = feature[i : i + 1, :, : expected.shape[2], : expected.shape[3]]
                torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)


def test_padding_shifts_features_less_than_resnets():
    """Twice the canvas: far from the border of an image LIP's features move, masked they do not."""
    image, padded = seeded_image((1, 3, 128, 128)), torch.zeros(1, 3, 256, 256)
    padded[:, :, :128, :128] = image
    image.valid_sizes = padded.valid_sizes = [(128, 128)]

    def shifts(net):
        with torch.no_grad():
            pairs = [(a, b) for a, b in zip(net(image), net(padded))]
        far = [(a[..., : a.shape[2] // 2, : a.shape[3] // 2], b) for a, b in pairs]
        far = [(a, b[..., : a.shape[2], : a.shape[3]]) for a, b in far]
        return [((a - b).norm() / a.norm()).item() for a, b in far]

    paper = seeded(LIPResNet(50))
    masked = LIPResNet(50, mask_padding=True).eval()
    masked.load_state_dict(paper.state_dict())
    resnet, paper, masked = shifts(seeded(ResNet(50))), shifts(paper), shifts(masked)
    assert max(paper) > 0.05
    assert max(masked) < 1e-4
    assert max(masked) <= max(resnet) < 0.01


@pytest.mark.parametrize(
    'build', [lambda **k: LIPResNet(50, **SMALL, **k), lambda **k: LIPDenseNet(121, **k)]
)
def test_checkpointing_remembers_the_areas_in_backward(build):
    _, batch = images_in_a_batch()
    gradients = []
    net = seeded(build(mask_padding=True)).double()
    for other in (net, build(mask_padding=True, with_cp=True)):
        other.load_state_dict(net.state_dict())
        other.double().train()
        loss = sum(f.square().mean() for f in other(batch))
        loss.backward()
        gradients.append([p.grad for p in other.parameters() if p.grad is not None])
    for plain, again in zip(*gradients):
        torch.testing.assert_close(again, plain)


def test_the_preprocessor_notes_the_sizes():
    inputs = [torch.zeros(3, 40, 64), torch.zeros(3, 50, 30)]
    sizes = {}
    for kind in ('SizedDetDataPreprocessor', 'DetDataPreprocessor'):
        samples = [DetDataSample(metainfo=dict(img_shape=x.shape[1:])) for x in inputs]
        data = dict(inputs=list(inputs), data_samples=samples)
        data = MODELS.build(dict(type=kind, pad_size_divisor=32))(data)
        sizes[kind] = getattr(data['inputs'], 'valid_sizes', None)
    assert sizes == {'SizedDetDataPreprocessor': [(40, 64), (50, 30)], 'DetDataPreprocessor': None}


def test_a_batch_without_fitting_sizes_is_refused():
    net = LIPResNet(18, mask_padding=True, **SMALL).eval()
    x = torch.zeros(2, 3, 64, 64)
    with pytest.raises(InputError, match='SizedDetDataPreprocessor'):
        net(x)
    for sizes in ([(64, 64)], [(64, 64), (65, 64)], [(64, 64), (0, 64)]):
        x.valid_sizes = sizes
        with pytest.raises(InputError, match='do not fit a batch'):
            net(x)
