"""SGE: its formula, the numbers where a naive one fails, and SGE-ResNet as its authors have it."""

import math

import mmcv
import pytest
import torch
from backbone_checks import (
    assert_gradients_are,
    assert_outputs_are,
    assert_same_tensors,
    multiply_adds,
    num_parameters,
    train_step,
)
from mmdet.models import ResNet
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from packaging.version import parse
from seeded_weights import load_reference, seeded_state_dict
from torch import nn

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.backbones import LIPResNet, SGEResNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import SGE

# The same network with few channels, for what needs no numbers; 32 end the first stage.
SMALL = dict(base_channels=8, groups=4)
PLUGIN = dict(cfg=dict(type='SGE', groups=4), position='after_conv3')


@pytest.fixture(scope='module')
def reference():
    return load_reference('sge_resnet50')


@pytest.fixture(scope='module')
def official(reference):
    return seeded_state_dict(reference['state_dict_shapes'])


def trained(sge):
    torch.manual_seed(1)
    nn.init.normal_(sge.weight)
    nn.init.normal_(sge.bias)
    return sge


def formula(x, sge):
    """The paper's equations, one image and one group at a time, in float64."""
    output = torch.empty(x.shape, dtype=torch.float64)
    size = x.shape[1] // sge.groups
    for n, image in enumerate(x.double()):
        for g in range(sge.groups):
            channels = slice(g * size, (g + 1) * size)
            positions = image[channels].flatten(1)  # (channels, positions)
            similarity = positions.T @ positions.mean(1)
            normalized = (similarity - similarity.mean()) / (similarity.std() + sge.eps)
            gate = torch.sigmoid(sge.weight[0, g] * normalized + sge.bias[0, g])
            output[n, channels] = (positions * gate).reshape(size, *x.shape[2:])
    return output


# --- the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(2, 8, 5, 7), (1, 12, 1, 9), (3, 4, 2, 2)])
def test_output_is_the_papers_formula(shape):
    torch.manual_seed(0)
    sge = trained(SGE(shape[1], groups=4)).double()
    x = torch.randn(shape, dtype=torch.float64) + 1
    torch.testing.assert_close(sge(x), formula(x, sge))


def test_gradients_are_those_of_the_output():
    torch.manual_seed(0)
    sge = trained(SGE(6, groups=2)).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(sge, dict(weight=weight, bias=bias), (x,))

    if not hasattr(torch, 'func'):
        pytest.skip('needs torch 2')
    assert torch.autograd.gradcheck(call, (x, sge.weight, sge.bias))


def test_starts_with_one_factor_for_all_positions():
    x = torch.randn(2, 64, 5, 5)
    torch.testing.assert_close(SGE(64)(x), x / (1 + math.exp(-1)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_takes_maps_whose_similarities_it_cannot_hold(dtype):
    torch.manual_seed(0)
    sge = trained(SGE(64, groups=4)).to(dtype)
    x = (100 * torch.randn(2, 64, 16, 16) + 100).to(dtype)
    assert (x.float().pow(2).sum(1) > torch.finfo(torch.float16).max).any()
    tolerance = 2 * torch.finfo(dtype).eps
    output = sge(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), formula(x, sge), rtol=tolerance, atol=tolerance)


def test_autocast_changes_no_number():
    sge = trained(SGE(8, groups=2))
    x = torch.randn(2, 8, 6, 6)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(sge(x), formula(x, sge).float())


@pytest.mark.parametrize('value', [0.0, 0.1, 1234.567, -3e4, 98362.4453125])
@pytest.mark.parametrize('size', [(1, 1), (1, 2), (25, 33), (50, 84)])
def test_positions_that_are_all_alike_keep_the_bias_gate(value, size):
    """In float32, where the rounding of a large similarity is far above eps."""
    sge = trained(SGE(16, groups=2))
    x = (value * torch.linspace(0.5, 1, 16)).view(1, 16, 1, 1).repeat(2, 1, *size)
    x.requires_grad_()
    output = sge(x)
    gate = sge.bias.sigmoid().repeat_interleave(8, 1)
    torch.testing.assert_close(output, x * gate, rtol=1e-3, atol=0)
    output.sum().backward()
    for gradient in (x.grad, sge.weight.grad, sge.bias.grad):
        assert gradient.isfinite().all()


def test_memory_format_stays():
    sge = trained(SGE(8, groups=2))
    x = torch.randn(2, 8, 6, 5)
    output = sge(x.to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, sge(x))


def test_traced_for_any_size():
    sge = trained(SGE(8, groups=2))
    traced = torch.jit.trace(sge, torch.randn(2, 8, 6, 5))
    x = torch.randn(1, 8, 7, 9)
    torch.testing.assert_close(traced(x), sge(x))


@pytest.mark.parametrize(('channels', 'groups'), [(100, 64), (32, 64), (8, 0), (8, 2.0), (8, -2)])
def test_bad_groups_say_so(channels, groups):
    with pytest.raises(InputError, match=f'{channels} channels do not divide into {groups} groups'):
        SGE(channels, groups)


# --- in ResNets -----------------------------------------------------------------------------------


@pytest.mark.parametrize('scope', [None, 'mmdet'])
@pytest.mark.parametrize('kind', ['SGE', SGE])
def test_is_a_plugin_of_any_resnet(scope, kind):
    if kind is SGE and parse(mmcv.__version__) < parse('2.0.1'):
        pytest.skip('before 2.0.1 mmcv takes plugins by name alone')
    plugin = dict(cfg=dict(type=kind, groups=4), position='after_conv3')
    for backbone in (ResNet, LIPResNet):
        with DefaultScope.overwrite_default_scope(scope):
            net = backbone(50, base_channels=8, plugins=[plugin])
        layers = [name for name, m in net.named_modules() if isinstance(m, SGE)]
        assert len(layers) == 16
        assert layers[0] == 'layer1.0.sge'
        train_step(net, 2, 3, 33, 40)


def test_resnext_and_plugin_positions():
    net = MODELS.build(
        dict(
            type='ResNeXt',
            depth=50,
            base_channels=16,
            groups=4,
            base_width=4,
            plugins=[dict(PLUGIN, stages=(False, False, True, True), position='after_conv2')],
        )
    )
    layers = [name for name, m in net.named_modules() if isinstance(m, SGE)]
    assert len(layers) == 9
    train_step(net, 2, 3, 33, 40)


def test_sge_resnet_is_resnet_with_the_plugin():
    net = SGEResNet(50, **SMALL)
    resnet = ResNet(50, base_channels=8, plugins=[PLUGIN])
    state = seeded_state_dict({k: v.shape for k, v in net.state_dict().items()})
    resnet.load_state_dict(state)
    net.load_state_dict(state)
    net.eval()
    resnet.eval()
    x = torch.rand(1, 3, 40, 33)
    for ours, theirs in zip(net(x), resnet(x)):
        torch.testing.assert_close(ours, theirs)


def test_outputs_and_loss_are_the_authors(reference, official):
    net = SGEResNet(50)
    net.load_state_dict(official)
    assert_outputs_are(reference, net)


def test_gradients_are_the_authors(reference, official):
    net = SGEResNet(50)
    net.load_state_dict(official)
    assert_gradients_are(reference, net)


@pytest.mark.parametrize(
    ('depth', 'millions', 'giga', 'published'),
    [(50, 25.56, 4.089, 4.127), (101, 44.55, 7.801, 7.858)],
)
def test_size_is_the_published(depth, millions, giga, published):
    net = SGEResNet(depth)
    parameters = num_parameters(net) + num_parameters(nn.Linear(2048, 1000))
    assert parameters / 1e6 == pytest.approx(millions, abs=0.005)
    operations = (multiply_adds(net) + 2048 * 1000) / 1e9
    assert operations == pytest.approx(giga, abs=0.001)
    assert operations == pytest.approx(published, rel=0.01)


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize('classifier', [True, False])
@pytest.mark.parametrize(('prefix', 'wrapped'), [('', False), ('module.', True)])
def test_official_files_load_as_they_are(tmp_path, official, classifier, prefix, wrapped):
    state = {prefix + k: v for k, v in official.items() if classifier or not k.startswith('fc.')}
    state = dict(state_dict=state, epoch=100) if wrapped else state
    net, again = SGEResNet(50), SGEResNet(50)
    result = net.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    torch.save(state, tmp_path / 'official.pth')
    load_checkpoint(again, str(tmp_path / 'official.pth'), strict=True)
    expected = {k: v for k, v in official.items() if not k.startswith('fc.')}
    for loaded in (net, again):
        assert_same_tensors(loaded.official_state_dict(), expected)


def test_missing_weights_name_the_other_ways():
    missing = dict(type='Pretrained', checkpoint='checkpoints/nowhere.pth')
    with pytest.raises(
        InputError, match=r'configs/sge/README\.md .*torchvision://resnet101'
    ) as error:
        SGEResNet(101, init_cfg=missing, **SMALL).init_weights()
    assert '\n' not in str(error.value)


# --- MMDetection's options ------------------------------------------------------------------------


@pytest.mark.parametrize('initialize', [False, True])
def test_residuals_are_zero_at_the_start(initialize):
    net = SGEResNet(50, **SMALL).eval()
    if initialize:
        net.init_weights()
    x = torch.rand(1, 32, 6, 5)
    torch.testing.assert_close(net.layer1[1](x), x)
    assert net.layer1[1].sge.bias.min() == 1


def test_frozen_stages_and_norms():
    net = SGEResNet(50, frozen_stages=1, **SMALL)
    assert net.train() is net
    frozen = {name.split('.')[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {'conv1', 'bn1', 'layer1'}
    assert not net.layer1[0].sge.weight.requires_grad
    assert not net.layer4[0].bn1.training  # norm_eval


@pytest.mark.parametrize(
    'option',
    [
        dict(with_cp=True),
        dict(deep_stem=True, avg_down=True),
        dict(norm_eval=False),
        dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, False, False, True)),
        dict(plugins=[dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3')]),
    ],
)
def test_options_train(option):
    net = SGEResNet(50, **SMALL, **option).train()
    train_step(net, 2, 3, 64, 70)


@pytest.mark.parametrize('size', [(1, 1), (5, 9), (33, 65)])
def test_small_images_train(size):
    train_step(SGEResNet(50, norm_eval=False, **SMALL).train(), 4, 3, *size)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=20), 'SGEResNet has no depth 20; there are 18, 34, 50, 101, 152'),
        (dict(depth=18), 'SGE needs .* instead of 18'),
        (dict(depth=50, groups=48), '256 channels do not divide into 48 groups'),
        (dict(depth=50, frozen_stages=5), 'to 4, not 5'),
    ],
)
def test_bad_options_say_why_in_one_line(kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        SGEResNet(**kwargs)
    assert '\n' not in str(error.value)


def test_checkpointing_changes_no_number():
    plain, saving = SGEResNet(50, **SMALL), SGEResNet(50, with_cp=True, **SMALL)
    state = seeded_state_dict({k: v.shape for k, v in plain.state_dict().items()})
    for net in (plain, saving):
        net.load_state_dict(state)
        train_step(net.train(), 2, 3, 64, 64)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
