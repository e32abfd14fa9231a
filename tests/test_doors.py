"""What users may put into the networks, and where they may build them."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from backbone_checks import train_step
from mmdet.models import ResNet
from mmdet.registry import MODELS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import nn

from lip_mmdet.backbones import DenseNet, LIPBackbone, LIPDenseNet, LIPResNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import BottleneckLogit, LIPPool2d, SimplifiedLogit
from lip_mmdet.layers.logit_modules import LogitHead

SMALL = dict(base_channels=16)


@pytest.fixture(autouse=True)
def tiny_depth(monkeypatch):
    monkeypatch.setitem(DenseNet.arch_settings, 9, (4, (2, 2, 2, 2)))


@MODELS.register_module()
class MyLogit(nn.Module):
    """The logit module that the documentation shows."""

    def __init__(self, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.norm = nn.GroupNorm(1, in_channels)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize('kind', ['MyLogit', 'mmdet.MyLogit', MyLogit])
def test_any_module_with_in_channels_is_a_logit_module(kind):
    logit = dict(type=kind)
    nets = (
        LIPResNet(50, stem_logit=logit, stage_logit=logit, norm_eval=False, **SMALL),
        LIPDenseNet(9, stem_logit=logit, transition_logit=logit, norm_eval=False),
    )
    for net in nets:
        train_step(net.train(), 2, 3, 64, 64)
        assert sum(isinstance(m, MyLogit) for m in net.modules()) in (4, 7)
        with pytest.raises(InputError, match='official names'):
            net.official_state_dict()


@pytest.mark.parametrize('kind', [BottleneckLogit, 'mmdet.BottleneckLogit'])
def test_the_papers_logit_modules_by_class_and_scope(kind):
    net = LIPResNet(50, stage_logit=dict(type=kind, width=16), **SMALL)
    assert net.layer2[0].logit_trunk.width == 16  # shared by both heads
    assert net.layer2[0].residual_logit.gate.coefficient == 12
    with pytest.raises(InputError, match="no logit module 'NoLogit' is registered"):
        LIPResNet(50, stem_logit=dict(type='NoLogit'))


@pytest.mark.parametrize('norm', [dict(type='GN', num_groups=4), dict(type='BN'), dict(type='IN')])
def test_norm_of_the_logit_modules(norm):
    net = LIPResNet(
        50,
        stem_logit=dict(type='SimplifiedLogit', norm_cfg=norm),
        stage_logit=dict(type='BottleneckLogit', norm_cfg=norm),
        norm_eval=False,
        **SMALL,
    )
    net.init_weights()
    train_step(net.train(), 2, 3, 64, 64)
    plain = LIPResNet(50, **SMALL).maxpool.logit.norm
    heads = [m for m in net.modules() if isinstance(m, LogitHead)]
    assert len(heads) == 7
    assert all(type(head.norm) is not type(plain) for head in heads)


@pytest.mark.parametrize(
    'options',
    [
        dict(depth=50, norm_cfg=dict(type='IN')),
        dict(depth=18, norm_cfg=dict(type='IN')),
        dict(depth=50, norm_cfg=dict(type='GN', num_groups=4)),
        dict(depth=34, plugins=[]),
        dict(depth=50, plugins=[]),
        dict(depth=np.int64(50), strides=np.array([1, 2, 2, 2])),
        dict(depth=50, stage_logit=dict(type='BottleneckLogit', width=np.int64(8))),
        dict(depth=50, style='caffe'),
        dict(depth=50, style='caffe', dilations=(1, 1, 2, 2)),
        dict(
            depth=50,
            style='caffe',
            dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, True),
        ),
    ],
)
def test_what_resnet_takes(options):
    net = LIPResNet(norm_eval=False, **SMALL, **options)
    net.init_weights()
    features = train_step(net.train(), 2, 3, 65, 70)
    own = ('plugins', 'stage_logit')  # its basic block refuses even an empty list
    plain = ResNet(**SMALL, **{k: v for k, v in options.items() if k not in own})
    assert [f.shape for f in features] == [f.shape for f in plain(torch.rand(2, 3, 65, 70))]


def test_caffe_style_keeps_every_weight():
    """LIP pools the block's input; all convolutions follow at stride 1, with their weights."""
    plain = ResNet(50, style='caffe', **SMALL)
    net = LIPResNet(50, style='caffe', **SMALL).eval()
    net.load_state_dict(plain.state_dict())
    own = net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())
    block = net.layer3[0]
    nn.init.normal_(block.norm3.weight)
    x = torch.rand(1, 128, 9, 12)
    pooled = nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    out = block.norm1(block.conv1(pooled)).relu()
    out = block.norm3(block.conv3(block.norm2(block.conv2(out)).relu()))
    torch.testing.assert_close(block(x), (out + block.downsample(pooled)).relu())
    with pytest.raises(InputError, match='official names'):
        net.official_state_dict()


@pytest.mark.parametrize(
    'build',
    [
        lambda: SimplifiedLogit(8, gate_coefficient=-1.0),
        lambda: BottleneckLogit(8, width=0),
        lambda: LIPResNet(50, implementation='fast'),
        lambda: LIPDenseNet(9, implementation='fast'),
        lambda: LIPPool2d(8, dict(type='SimplifiedLogit', init='median')),
        lambda: LIPPool2d(8, 'ProjectionLogit'),
        lambda: LIPResNet(50, stem_logit=dict(init='max')),
        lambda: LIPResNet(50, stage_logit=dict(type='BottleneckLogit', init='max')),
        lambda: LIPResNet(50, lip_stages=True),
        lambda: LIPBackbone(dict(type='mmdet.ResNet', depth=18), stages=8),
    ],
)
def test_config_mistakes_are_one_line(build):
    with pytest.raises(InputError) as error:
        build()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('channels_last', [None, True, False])
def test_densenet_features_are_contiguous(channels_last):
    torch.manual_seed(0)
    net = LIPDenseNet(9, channels_last=channels_last).eval()
    torch.manual_seed(0)
    composed = LIPDenseNet(9, channels_last=False, implementation='composed').eval()
    image = torch.rand(1, 3, 64, 64)
    for feature, expected in zip(net(image.to(memory_format=torch.channels_last)), composed(image)):
        assert feature.is_contiguous()
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


def test_another_librarys_scope_builds_ours():
    registry = Registry('model', parent=ROOT_MODELS, scope='elsewhere')
    with DefaultScope.overwrite_default_scope('elsewhere'):
        for config in (
            dict(type='mmdet.LIPResNet', depth=18, **SMALL),
            dict(type='mmdet.LIPResNetMD', depth=50, **SMALL),
            dict(type='mmdet.LIPDenseNet', depth=9),
            dict(type='mmdet.LIPPool2d', in_channels=8),
        ):
            net = registry.build(config)
            net.init_weights()
            assert isinstance(net, nn.Module)


@pytest.mark.parametrize(
    'first',
    [
        'import lip_mmdet',
        'import lip_mmdet.evaluation; assert "torch" not in sys.modules',
        'from mmdet.apis import DetInferencer',
        'import mmdet.models',
        'from mmengine.config import Config',
    ],
)
def test_the_short_import_registers(tmp_path, first):
    """In any order of imports, and without a default scope at that moment."""
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['lip_mmdet'], allow_failed_imports=False)\n"
    )
    code = f"""
        import sys
        {first}
        from mmengine.config import Config
        from mmengine.registry import init_default_scope
        Config.fromfile('config.py')
        from mmdet.registry import HOOKS, METRICS, MODELS
        init_default_scope('mmdet')
        assert MODELS.build(dict(type='LIPResNet', depth=18)).depth == 18
        assert METRICS.get('LIPCocoMetric') is not None
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
