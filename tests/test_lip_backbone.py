"""LIP in backbones of all families: they stay what they are but for their downsampling."""

import copy
import io
from pathlib import Path

import pytest
import torch
from backbone_checks import warm_starts
from mmcv.cnn.utils import fuse_conv_bn
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from test_configs import sample
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet import config_path
from lip_mmdet.backbones import LIPBackbone
from lip_mmdet.backbones.watching import run_and_see
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LIPPool2d, record_importance

BRANCHES = {1: 4, 2: 8, 3: 16, 4: 32}
HRNET = {
    f'stage{n}': dict(
        num_modules=1,
        num_branches=n,
        block='BOTTLENECK' if n == 1 else 'BASIC',
        num_blocks=(1,) * n,
        num_channels=tuple(BRANCHES.values())[:n],
    )
    for n in BRANCHES
}
SMALL = dict(depth=50, base_channels=8, norm_eval=False)
FAMILIES = {
    'ResNet': dict(type='ResNet', depth=18, base_channels=8, norm_eval=False),
    'ResNet-D': dict(type='ResNet', deep_stem=True, avg_down=True, stem_channels=8, **SMALL),
    'caffe': dict(type='ResNet', style='caffe', **SMALL),
    'dilated': dict(type='ResNet', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **SMALL),
    'ResNeXt': dict(type='ResNeXt', groups=4, base_width=8, **SMALL),
    'RegNet': dict(type='RegNet', arch='regnetx_400mf', norm_eval=False),
    'Res2Net': dict(type='Res2Net', scales=4, base_width=26, **dict(SMALL, base_channels=16)),
    'HRNet': dict(type='HRNet', extra=HRNET, norm_eval=False),
    'CSPDarknet': dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125),
    'CSPNeXt': dict(type='CSPNeXt', deepen_factor=0.17, widen_factor=0.125),
    'MobileNetV2': dict(type='MobileNetV2', widen_factor=0.25),
    'EfficientNet': dict(type='EfficientNet', arch='b0', out_indices=(3, 4, 5)),
    'DetectoRS_ResNet': dict(
        type='DetectoRS_ResNet',
        num_stages=4,
        conv_cfg=dict(type='ConvAWS'),
        sac=dict(type='SAC', use_deform=True),
        stage_with_sac=(False, True, True, True),
        **SMALL,
    ),
    'PVTv2': dict(type='PyramidVisionTransformerV2', embed_dims=8, num_layers=(1, 1, 1, 1)),
    'DCNv2': dict(
        type='ResNet',
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
        **SMALL,
    ),
}
CONFIGS = sorted((Path(config_path()) / 'lip_backbone').glob('*.py'))
# The others take odd sizes, too.
MULTIPLES_ONLY = ('HRNet', 'CSPDarknet', 'DetectoRS_ResNet')


def build(name, **options):
    torch.manual_seed(0)
    return LIPBackbone(copy.deepcopy(FAMILIES[name]), **options)


def randomize(net):
    """Set norms and logits to what training could bring; many start at zero."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    for name, parameter in net.named_parameters():
        if '.logit.' in name:
            parameter.data.normal_(0, 0.2, generator=generator)


@pytest.mark.parametrize('name', FAMILIES)
def test_shapes_names_and_gradients(name):
    torch.manual_seed(0)
    plain, net = MODELS.build(FAMILIES[name]), build(name)
    assert [k for k in net.state_dict() if 'logit' not in k] == list(plain.state_dict())
    detector = nn.ModuleDict(dict(backbone=net))
    plain_detector = nn.ModuleDict(dict(backbone=plain)).state_dict()
    with warm_starts() as lines:
        load_state_dict(detector, plain_detector, strict=True)  # MMEngine's
        detector.load_state_dict(copy.deepcopy(detector.state_dict()))
    assert plain_detector.keys() <= detector.state_dict().keys()
    assert len(lines) == 1 and f'{len(plain.state_dict())} tensors' in lines[0]
    for key, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[key], value)

    for size in ((96, 128), (128, 96) if name in MULTIPLES_ONLY else (71, 65)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            shapes = [f.shape for f in plain(x)]
            assert [f.shape for f in net(x)] == shapes
    randomize(net)
    sum(f.square().mean() for f in net(torch.rand(2, 3, 96, 96))).backward()
    for key, parameter in net.named_parameters():
        if '.logit.' in key:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize('order', ['before', 'after'])
@pytest.mark.parametrize('name', ['ResNet', 'CSPNeXt'])
def test_fused_copied_pickled_and_averaged_ones_compute_the_same(name, order):
    net = build(name, order=order)
    randomize(net)
    net.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        buffer = io.BytesIO()
        torch.save(net, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        average = ExponentialMovingAverage(net, update_buffers=True).eval()
        average.update_parameters(net)
        others = (copy.deepcopy(net), loaded, average, fuse_conv_bn(copy.deepcopy(net)))
        with record_importance(net) as maps:
            others += (net,)  # unchanged by being looked at
            net(x)
        places = [one for one in net.downsampling if not one.reason]
        assert len(maps) == len(places)
        for other in others:
            for feature, wanted in zip(other(x), expected):
                torch.testing.assert_close(feature, wanted, rtol=1e-4, atol=1e-4)
    again = build(name, order=order)
    with warm_starts() as lines:
        again.load_state_dict(net.state_dict())
    assert not lines
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())


def test_a_warm_start_is_close_to_the_plain_network():
    """With max pooling, and strided convolutions on flat maps, it would be the same."""
    plain = MODELS.build(dict(FAMILIES['Res2Net'], frozen_stages=1, norm_eval=True))
    net = LIPBackbone(dict(FAMILIES['Res2Net'], frozen_stages=1, norm_eval=True), stages=())
    plain.eval()
    randomize(plain)
    with warm_starts() as lines:
        net.load_state_dict(plain.state_dict())
    assert 'close to max pooling at maxpool' in lines[0]
    net.train()
    assert net.training and not net.backbone.layer1.training
    x = torch.rand(1, 3, 64, 64)
    net.eval()
    ours, theirs = net(x)[0].flatten(), plain(x)[0].flatten()
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_frozen_stages_freeze_the_lip_within_them_before_a_training_begins():
    # DistributedDataParallel notes what is to have gradients when it is built.
    net = LIPBackbone(dict(FAMILIES['RegNet'], frozen_stages=1))
    before = [name for name, p in net.named_parameters() if p.requires_grad]
    net.train()
    assert before == [name for name, p in net.named_parameters() if p.requires_grad]


def test_a_plain_module_of_pytorch_keeps_the_weights_that_it_drew():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))

        def forward(self, x):
            return (self.layers(x),)

    net = LIPBackbone(dict(type=Own))
    drawn = copy.deepcopy(net.state_dict())
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), drawn, rtol=0, atol=0)


def test_weights_that_are_drawn_leave_lip_an_average():
    net = build('CSPNeXt')
    net.init_weights()
    for module in net.modules():
        if isinstance(module, LIPPool2d):
            assert not module.logit.conv.weight.any()


@pytest.mark.parametrize('name', ['ResNet', 'DetectoRS_ResNet'])  # the latter loads by itself
def test_a_checkpoint_in_init_cfg_is_a_warm_start(tmp_path, name):
    plain = MODELS.build(FAMILIES[name])
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    config = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    net = LIPBackbone(dict(FAMILIES[name], init_cfg=config))
    net.init_weights()
    assert torch.equal(net.layer3[0].conv1.weight, plain.layer3[0].conv1.weight)
    assert net.backbone.maxpool.logit.conv.weight.any()
    lips = [m for m in net.backbone.layer3.modules() if isinstance(m, LIPPool2d)]
    assert lips and not any(lip.logit.conv.weight.any() for lip in lips)


def test_what_is_replaced_and_what_is_left_alone_is_said():
    def left(net):
        return {one.name: one.reason for one in net.downsampling if one.reason}

    def done(net):
        return {one.name: one.stride for one in net.downsampling if not one.reason}

    net = build('ResNet')
    assert done(net) == {
        'maxpool': 4,
        'layer2.0.conv1': 8,
        'layer2.0.downsample.0': 8,
        'layer3.0.conv1': 16,
        'layer3.0.downsample.0': 16,
        'layer4.0.conv1': 32,
        'layer4.0.downsample.0': 32,
    }
    assert left(net) == {'conv1': 'reads the image'}
    assert '% multiply-adds; to stride 4 maxpool;' in repr(net)
    assert set(done(build('ResNet', stem=False, stages=[16, 32])).values()) == {16, 32}
    assert left(build('CSPDarknet')) == {'stem': 'reads the image'}  # Focus
    frugal = build('MobileNetV2', max_extra=0.1)
    assert 'LIP would add' in ' '.join(left(frugal).values()) and done(frugal)

    # By the formula: a projection of the input's channels at the input's size.
    plain = MODELS.build(FAMILIES['ResNet'])
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    plain(torch.zeros(1, 3, 128, 109))
    (one,) = (one for one in net.downsampling if one.name == 'layer3.0.conv1')
    assert one.extra == pytest.approx(16**2 * 16 * 14 / total)


@pytest.mark.parametrize('order', ['before', 'after'])
@pytest.mark.parametrize('name', ['ResNet', 'CSPNeXt'])
def test_multiply_adds_of_a_wrapped_network_are_those_that_pytorch_counts(name, order):
    flop_counter = pytest.importorskip('torch.utils.flop_counter')
    plain, net = MODELS.build(FAMILIES[name]), build(name, order=order)
    x = torch.zeros(1, 3, 128, 109)
    with torch.no_grad():
        with flop_counter.FlopCounterMode(display=False) as counter:
            net(x)
        adds = sum(run_and_see(net, x).multiply_adds.values())
        plain_adds = sum(run_and_see(plain, x).multiply_adds.values())
    assert adds == counter.get_total_flops() / 2
    assert adds / plain_adds == pytest.approx(1 + sum(one.extra for one in net.downsampling))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match='no place for LIP in SwinTransformer'):
        LIPBackbone(dict(type='SwinTransformer', embed_dims=24, depths=(1, 1, 1, 1)))
    with pytest.raises(InputError, match='stages are strides out of'):
        build('ResNet', stages=[2])
    with pytest.raises(InputError, match="'before' or 'after'"):
        build('ResNet', order='behind')
    with pytest.raises(InputError, match='does not run on an image'):
        LIPBackbone(dict(type=nn.Linear, in_features=3, out_features=3))


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=[path.name for path in CONFIGS])
def test_configs_train_and_predict(path):
    init_default_scope('mmdet')
    config = Config.fromfile(path)
    config.model.backbone.backbone.init_cfg = None
    model = MODELS.build(config.model)
    randomize(model.backbone)
    data = dict(
        inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2,
        data_samples=[sample(80), sample(80)],
    )
    losses = model.train()(**model.data_preprocessor(data), mode='loss')
    model.parse_losses(losses)[0].backward()
    for key, parameter in model.named_parameters():
        if '.logit.' in key and parameter.requires_grad:
            assert parameter.grad.abs().sum() > 0, key
    assert len(model.eval().test_step(data)) == 2


@pytest.mark.parametrize('order', ['before', 'after'])
def test_masked_padding_changes_nothing_in_an_image(order):
    net = build('ResNeXt', order=order, mask_padding=True)
    randomize(net)
    net.eval()
    image = torch.rand(1, 3, 64, 64)
    batch = nn.functional.pad(image, (0, 64, 0, 32))
    image.valid_sizes = batch.valid_sizes = [(64, 64)]
    with torch.no_grad():
        for alone, padded in zip(net(image), net(batch)):
            height, width = alone.shape[2:]
            torch.testing.assert_close(padded[:, :, :height, :width], alone, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match='does not go with the padding of'):
        build('EfficientNet', mask_padding=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ResNet-D', 'CSPNeXt'])
def test_exported_to_onnx_for_any_size(name, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    net = build(name)
    randomize(net)
    net.eval()
    any_size = (
        {0: torch.export.Dim('n'), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},
    )
    args = (torch.rand(2, 3, 96, 128),), tmp_path / 'net.onnx'
    torch.onnx.export(net, *args, dynamo=True, dynamic_shapes=any_size)
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    for shape in ((1, 3, 96, 128), (2, 3, 97, 131)):
        x = torch.rand(shape)
        with torch.no_grad():
            expected = net(x)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for ours, wanted in zip(found, expected):
            tolerance = 1e-4 * wanted.abs().max().item()
            torch.testing.assert_close(torch.from_numpy(ours), wanted, rtol=0, atol=tolerance)


class Twice(nn.Module):
    """A network with layers that LIP must not take."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 1, 1)
        self.again = nn.Conv2d(4, 4, 3, 2, 1)
        self.still = nn.MaxPool2d(2)
        self.last = nn.MaxPool2d(2)
        self.init_cfg = None

    def forward(self, x):
        x = self.again(self.again(self.first(x)))
        with torch.no_grad():
            x = self.still(x)
        return (self.last(x),)


def test_layers_that_run_twice_or_without_gradients_are_left_alone():
    net = LIPBackbone(dict(type=Twice))
    reasons = {one.name: one.reason for one in net.downsampling}
    assert reasons == {
        'again': 'runs more than once',
        'still': 'runs under no_grad',
        'last': '',
    }
