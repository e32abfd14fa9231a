"""Warm starts: how near LIP and its relatives begin to the plain network whose weights they get."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from backbone_checks import assert_same_tensors, warm_starts
from mmdet.models import ResNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import load_state_dict
from tiny_detector import run_tool, write_tiny_project
from torch import nn

from lip_mmdet import config_path
from lip_mmdet.backbones import DenseNet, LIPDenseNet, LIPResNet, LIPResNetMD, SGEResNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LIPPool2d, LogitHead

SMALL = dict(base_channels=8)
SGE_PLUGIN = dict(cfg=dict(type='SGE', groups=4), position='after_conv3')


@pytest.fixture(autouse=True)
def tiny_depth(monkeypatch):
    monkeypatch.setitem(DenseNet.arch_settings, 9, (4, (2, 2, 2, 2)))


@MODELS.register_module()
class PlainLogit(nn.Module):
    """A logit module of a user's own."""

    def __init__(self, in_channels):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(in_channels, 1, 1))

    def forward(self, x):
        return x * self.scale


def trained(net):
    """Give a network weights and statistics that keep maps at a healthy size, and return it."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)
    net.eval()  # MMDetection's returns None
    return net


def start(net, source, prefix=''):
    """Load the weights of ``source`` into ``net``; return the line of the log."""
    holder = nn.Module()
    holder.backbone = net
    state = {prefix + name: value for name, value in source.state_dict().items()}
    with warm_starts() as lines:
        result = (holder if prefix == 'backbone.' else net).load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    net.eval()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ('source', 'net'),
    [
        (lambda: ResNet(50, **SMALL), lambda: SGEResNet(50, groups=4, **SMALL)),
        (
            lambda: LIPResNet(50, **SMALL),
            lambda: LIPResNet(50, plugins=[SGE_PLUGIN], **SMALL),
        ),
        (lambda: LIPResNet(50, **SMALL), lambda: LIPResNetMD(50, **SMALL)),
        (lambda: DenseNet(9), lambda: LIPDenseNet(9, lip_stem=False)),
    ],
    ids=['SGE', 'SGE in LIP', 'modulated deformable', 'transitions'],
)
def test_starts_as_exactly_the_plain_network(source, net):
    source, net = trained(source()), net()
    start(net.double(), source.double(), 'backbone.')
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(net(image), source(image)):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_sge_starts_behind_norms_without_weights_too():
    source = ResNet(50, norm_cfg=dict(type='IN'), **SMALL)
    line = start(SGEResNet(50, groups=4, norm_cfg=dict(type='IN'), **SMALL), source)
    assert 'SGE is untrained' in line


@pytest.mark.parametrize('logit', ['SimplifiedLogit', 'ProjectionLogit', 'DepthwiseLogit'])
@pytest.mark.parametrize(
    ('source', 'net', 'pool'),
    [(ResNet, LIPResNet, 'maxpool'), (DenseNet, LIPDenseNet, 'pool0')],
)
def test_stem_starts_close_to_max_pooling(source, net, pool, logit):
    depth = 18 if source is ResNet else 9
    options = dict(base_channels=16) if source is ResNet else dict(stem_channels=16)
    net = net(depth, stem_logit=dict(type=logit), **options)
    line = start(net, trained(source(depth, **options)))
    assert f'{pool} starts close to max pooling, the others as average pooling' in line
    assert f'(frozen so: {pool})' not in line
    x = torch.randn(2, 16, 32, 40).relu()
    most = F.max_pool2d(x, 3, 2, 1)
    distance = (getattr(net, pool)(x) - most).norm()
    average = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    assert distance < 0.25 * (average - most).norm()


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
@pytest.mark.parametrize('depth', [18, 50])
def test_a_resnets_weights_are_kept(depth, prefix):
    source = trained(ResNet(depth, **SMALL))
    net = LIPResNet(depth, frozen_stages=1, **SMALL)
    line = start(net, source, prefix)
    conv = 'conv1' if depth == 18 else 'conv2'
    expected = source.state_dict()
    for stage in (2, 3, 4):
        name = f'layer{stage}.0.{conv}.weight'
        expected[name] = 0.1 * expected[name].sum((2, 3), keepdim=True)
        expected[name.replace('conv', 'bn').replace('weight', 'running_mean')] *= 0.1
        assert name in line
    own = {k: v for k, v in net.state_dict().items() if 'logit' not in k}
    assert_same_tensors(own, expected)
    stages = [h for n, h in net.named_modules() if isinstance(h, LogitHead) and 'layer' in n]
    assert len(stages) == 6
    assert all(not head.conv.weight.any() for head in stages)
    assert f'{len(expected) - 3} of {len(expected)} tensors kept' in line
    assert '(frozen so: maxpool)' in line


@pytest.mark.parametrize('convert', [lambda value: value, torch.Tensor.numpy])
def test_by_init_cfg(tmp_path, convert):
    source = trained(ResNet(18, **SMALL))
    state = {name: convert(value) for name, value in source.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'resnet.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth'))
    net = LIPResNet(18, init_cfg=pretrained, **SMALL)
    with warm_starts() as lines:
        net.init_weights()
    assert len(lines) == 1
    assert torch.equal(net.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert net.maxpool.logit.conv.weight.sum() == 8  # the identity


@pytest.mark.parametrize(
    ('state', 'init', 'message'),
    [
        (dict(state_dict=dict(prefix='backbone.')), {}, r"init_cfg.prefix to 'backbone\.'"),
        (dict(prefix='module.encoder_q.'), {}, r"init_cfg.prefix to 'module\.encoder_q\.'"),
        (dict(prefix='backbone.'), dict(prefix='student.'), r"init_cfg.prefix to 'backbone\.'"),
        (dict(model=dict(prefix='')), {}, 'entries begin with model'),
        ({}, {}, 'it is empty'),
        ([], {}, 'holds no state_dict'),
    ],
)
@pytest.mark.parametrize('net', ['LIPResNet', 'LIPBackbone'])
def test_a_checkpoint_without_weights_for_the_backbone_is_refused(
    tmp_path, net, state, init, message
):
    def fill(part):
        """Put a network's weights where the case says."""
        if isinstance(part, dict) and 'prefix' in part:
            names = ResNet(18, **SMALL).state_dict()
            return {part['prefix'] + name: value for name, value in names.items()}
        return {k: fill(v) for k, v in part.items()} if isinstance(part, dict) else part

    path = tmp_path / 'other.pth'
    torch.save(fill(state), path)
    config = dict(type='ResNet', depth=18, **SMALL)
    config['init_cfg'] = dict(type='Pretrained', checkpoint=str(path), **init)
    if net == 'LIPResNet':
        backbone = LIPResNet(**{k: v for k, v in config.items() if k != 'type'})
    else:
        backbone = MODELS.build(dict(type=net, backbone=config))
    with pytest.raises(InputError, match=message) as error:
        backbone.init_weights()
    assert '\n' not in str(error.value)


CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')


@pytest.mark.parametrize(
    ('options', 'source'),
    [
        (dict(in_channels=1), {}),
        (dict(plugins=[CONTEXT]), {}),
        (dict(norm_cfg=dict(type='GN', num_groups=4)), {}),
        (dict(deep_stem=True), {}),
        (dict(norm_eval=False), dict(lip_stages=(False,) * 4)),
    ],
    ids=['grey images', 'context blocks', 'other norms', 'deep stem', 'LIP in the stem alone'],
)
def test_lip_starts_where_something_else_has_no_weights(options, source):
    """PyTorch goes on to report what is missing; MMEngine goes on without it."""
    net = LIPResNet(50, **options, **SMALL)
    state = trained(
        LIPResNet(50, **source, **SMALL) if source else ResNet(50, **SMALL)
    ).state_dict()
    with warm_starts() as lines:
        load_state_dict(net, state)  # MMEngine's
    assert len(lines) == 1
    assert 'not there or of another shape' in lines[0]
    taps = state['layer3.0.conv2.weight'].sum((2, 3), keepdim=True)
    ratio = net.layer3[0].conv2.weight / taps
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 if 'norm_cfg' in options else 0.1))
    if not source:
        assert net.maxpool.logit.conv.weight.sum() == net.maxpool.logit.conv.in_channels


@pytest.mark.parametrize('options', [{}, dict(stage_logit=dict(type='IdentityLogit', scale=0.0))])
def test_networks_without_trained_logits_start_too(options):
    """Also those whose logit modules have no weights that a file could lack."""
    if options:
        options['stem_logit'] = dict(type='IdentityLogit', scale=100.0)
    source = trained(ResNet(50, deep_stem=True, avg_down=True, **SMALL))
    net = LIPResNet(50, deep_stem=True, avg_down=True, **SMALL, **options)
    assert 'layer2.0.conv2.weight' in start(net, source)
    assert torch.equal(net.layer2[0].downsample[1].weight, source.layer2[0].downsample[1].weight)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_weights_from_before_batches_were_counted(prefix):
    source = ResNet(50, **SMALL)
    counts = [name for name in source.state_dict() if 'num_batches' in name]
    for name in counts:
        module = source.get_submodule(name.rpartition('.')[0])
        del module._buffers['num_batches_tracked']
    start(LIPResNet(50, **SMALL), source, prefix)


@pytest.mark.parametrize('logit', ['PlainLogit', 'BottleneckLogit'])
def test_average_pooling_is_not_frozen_in_place_of_max_pooling(logit):
    net = LIPResNet(18, frozen_stages=1, stem_logit=dict(type=logit), **SMALL)
    line = start(net, trained(ResNet(18, **SMALL)))
    assert f'a {logit} cannot start close to max pooling' in line
    assert 'frozen' not in line
    net.train()
    learning = {name.split('.')[0] for name, p in net.named_parameters() if p.requires_grad}
    assert learning == {'maxpool', 'layer2', 'layer3', 'layer4'}
    sum(f.square().mean() for f in net(torch.rand(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in net.maxpool.parameters())


def test_trained_lip_is_loaded_as_it_is():
    """With it there is nothing to start: no line, no other weight."""
    source = trained(LIPResNet(18, **SMALL))
    net = LIPResNet(18, **SMALL)
    with warm_starts() as lines:
        net.load_state_dict(source.state_dict())
    assert not lines
    assert_same_tensors(net.state_dict(), source.state_dict())


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize(
    ('net', 'source', 'message'),
    [
        (dict(depth=50, in_channels=1), dict(depth=50), r'conv1\.weight'),
        (dict(depth=101), dict(depth=50), 'layer3'),
        (dict(depth=50), dict(depth=50, base_channels=4), r'layer2\.0\.conv2'),
    ],
)
def test_what_does_not_fit_is_reported(net, source, message, prefix):
    holder = nn.Module()
    holder.backbone = LIPResNet(**{**SMALL, **net})
    state = ResNet(**{**SMALL, **source}).state_dict()
    with pytest.raises(RuntimeError, match=message):
        (holder if prefix else holder.backbone).load_state_dict(
            {prefix + name: value for name, value in state.items()}
        )


def test_max_like_start_from_scratch():
    for logit in (dict(type='SimplifiedLogit'), dict(type='ProjectionLogit')):
        net = LIPResNet(18, stem_logit=dict(logit, init='max'), **SMALL)
        net.init_weights()
        assert net.maxpool.logit.conv.weight.sum() == 8
        assert not net.layer2[0].residual_logit.conv.weight.any()
        assert LIPPool2d(8, logit).logit.conv.weight.abs().max() == 0
    with pytest.raises(InputError, match=r"init is 'average'.* not 'median'"):
        LIPPool2d(8, dict(type='SimplifiedLogit', init='median'))


def test_the_upgrade_recipe_changes_what_it_says(tmp_path):
    """Around any detector's config: the backbone's type, a tenth of its rate, two epochs."""
    recipe = Path(config_path('lip/upgrade_2e.py')).read_text()
    (base,) = re.findall(r"^_base_ = '(.*?)'", recipe, re.M)
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{base}'\ncustom_imports = dict(imports=['json'])\n"
        'optim_wrapper = dict(optimizer=dict(lr=0.03))\n'
    )
    (tmp_path / 'upgrade.py').write_text(recipe.replace(base, './mine.py'))
    mine, upgrade = (Config.fromfile(tmp_path / f'{name}.py') for name in ('mine', 'upgrade'))
    assert upgrade.custom_imports.imports == ['json', 'lip_mmdet.plugin']
    assert upgrade.optim_wrapper.optimizer.pop('lr') == pytest.approx(0.003)
    assert upgrade.train_cfg.max_epochs == 2 and upgrade.param_scheduler == []
    assert upgrade.model.backbone.pop('type') == 'LIPResNet'
    for config in (mine, upgrade):
        for key in ('type', 'init_cfg'):
            config.model.backbone.pop(key, None)
        config.optim_wrapper.optimizer.pop('lr', None)
    assert upgrade.model == mine.model
    assert upgrade.optim_wrapper == mine.optim_wrapper


def test_report_of_a_detector(tmp_path):
    """The command scores each way to put LIP in, and says what it cannot start from."""
    write_tiny_project(tmp_path)
    plain = tmp_path / 'plain.py'
    plain.write_text("_base_ = './tiny.py'\nmodel = dict(backbone=dict(type='ResNet'))\n")
    torch.save(MODELS.build(Config.fromfile(plain).model).state_dict(), tmp_path / 'plain.pth')
    run_tool('warm_start.py', 'plain.py', 'plain.pth', '--out-md', 'table.md', folder=tmp_path)
    head, _, *rows = (tmp_path / 'table.md').read_text().splitlines()
    assert head == '| start | AP | AP50 | AP75 | APS | APM | APL |'
    assert [row.count('|') for row in rows] == [8] * 6
    done = run_tool('warm_start.py', 'tiny.py', 'plain.pth', folder=tmp_path, check=False)
    assert done.returncode == 2
    assert 'tiny.py has a LIPResNet as backbone' in done.stderr.splitlines()[-1]
    deeper = ('--cfg-options', 'model.backbone.depth=34')
    done = run_tool('warm_start.py', 'plain.py', 'plain.pth', *deeper, folder=tmp_path, check=False)
    assert done.returncode == 2
    assert 'fits the model in part' in done.stderr.splitlines()[-1]
