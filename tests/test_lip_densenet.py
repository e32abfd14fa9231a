"""LIP-DenseNet: the authors' numbers, what LIP changes in a DenseNet, and what files it takes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from backbone_checks import (
    assert_gradients_are,
    assert_outputs_are,
    assert_same_tensors,
    assert_samples,
    multiply_adds,
    num_parameters,
    random_state_dict,
    train_step,
)
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from seeded_weights import load_reference, seeded_image, seeded_state_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lip_mmdet.backbones import DenseNet, LIPDenseNet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LogitHead

TINY = 9  # a depth of two layers a block and few channels, for what needs no numbers


@pytest.fixture(autouse=True)
def tiny_depth(monkeypatch):
    monkeypatch.setitem(DenseNet.arch_settings, TINY, (4, (2, 2, 2, 2)))


@pytest.fixture(scope='module')
def reference():
    return load_reference('lip_densenet121')


@pytest.fixture(scope='module')
def official(reference):
    return seeded_state_dict(reference['state_dict_shapes'])


def heads(net):
    return [m for m in net.modules() if isinstance(m, LogitHead)]


# --- the paper's network --------------------------------------------------------------------------


def test_outputs_and_loss_are_the_authors(reference, official):
    net = LIPDenseNet(121)
    net.load_state_dict(official)
    assert_outputs_are(reference, net)


def test_stem_is_the_authors(reference, official):
    net = LIPDenseNet(121).eval()
    net.load_state_dict(official)
    stem = net.pool0(net.relu(net.norm0(net.conv0(seeded_image(reference['input_shape'])))))
    assert_samples(stem, reference['outputs']['stem'])


def test_gradients_are_the_authors(reference, official):
    net = LIPDenseNet(121)
    net.load_state_dict(official)
    assert_gradients_are(reference, net)


def test_size_is_the_published(reference):
    net = LIPDenseNet(121)
    parameters = num_parameters(net) + num_parameters(nn.Linear(1024, 1000))
    assert parameters == reference['num_parameters_with_classifier'] == 8_690_920
    assert multiply_adds(net) + 1024 * 1000 == pytest.approx(4.083e9, rel=1e-4)


@pytest.mark.parametrize('depth', [121, 161, 169, 201])
def test_each_depth_is_densenet_with_logit_modules(depth):
    densenet = DenseNet(depth)
    stem, width = densenet.conv0.out_channels, 128
    added = stem * stem * 9 + 2 * stem
    for i in (1, 2, 3):
        channels = getattr(densenet, f'transition{i}').conv.out_channels
        trunk = channels * width + 2 * width + width * width * 9 + 2 * width
        added += trunk + width * channels + 2 * channels
    assert num_parameters(LIPDenseNet(depth)) == num_parameters(densenet) + added


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize('classifier', [True, False])
@pytest.mark.parametrize(('prefix', 'wrapped'), [('', False), ('module.', True)])
def test_official_files_load_as_they_are(tmp_path, official, classifier, prefix, wrapped):
    state = {prefix + k: v for k, v in official.items() if classifier or 'classifier' not in k}
    state = dict(state_dict=state, epoch=90) if wrapped else state
    net, again = LIPDenseNet(121), LIPDenseNet(121)
    result = net.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    torch.save(state, tmp_path / 'official.pth')
    load_checkpoint(again, str(tmp_path / 'official.pth'), strict=True)
    for loaded in (net, again):
        torch.testing.assert_close(
            loaded.transition2.pool.logit.head.norm.weight.data,
            official['features.transition2.pool.logit.bn3.weight'],
        )


def test_saving_under_official_names(official):
    net = LIPDenseNet(121)
    net.load_state_dict(official)
    expected = {k: v for k, v in official.items() if 'classifier' not in k}
    assert_same_tensors(net.official_state_dict(), expected)


def test_own_state_dict_round_trip():
    net = LIPDenseNet(TINY)
    state = random_state_dict(net)
    net.load_state_dict(state)
    assert_same_tensors(net.state_dict(), state)


def test_incomplete_lip_weights_are_not_a_warm_start(official):
    state = {k: v for k, v in official.items() if 'transition3.pool.logit.bn2.bias' not in k}
    with pytest.raises(RuntimeError, match=r'transition3\.pool\.logit\.trunk\.norm2\.bias'):
        LIPDenseNet(121).load_state_dict(state)


def test_missing_weights_name_the_other_ways():
    missing = dict(type='Pretrained', checkpoint='checkpoints/nowhere.pth')
    with pytest.raises(InputError, match=r'configs/lip/README\.md .*torchvision://densenet121'):
        LIPDenseNet(121, init_cfg=missing).init_weights()


# --- LIP in the network ---------------------------------------------------------------------------


@pytest.mark.parametrize('initialize', [False, True])
def test_lip_averages_at_the_start(initialize):
    net = LIPDenseNet(TINY).eval()
    if initialize:
        net.init_weights()
    x = torch.rand(2, 8, 11, 10)
    torch.testing.assert_close(net.pool0(x), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    x = torch.rand(2, 8, 11, 10)
    torch.testing.assert_close(net.transition1.pool(x), F.avg_pool2d(x, 2))
    assert len(heads(net)) == 4
    assert net.conv0.weight.abs().max() > 0


def test_no_lip_is_densenet():
    net = LIPDenseNet(TINY, lip_stem=False, lip_transitions=(False,) * 3).eval()
    densenet = DenseNet(TINY).eval()
    densenet.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(net(x), densenet(x)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages_hold_their_logit_modules(frozen_stages):
    net = LIPDenseNet(TINY, frozen_stages=frozen_stages, norm_eval=False).train()
    frozen = {name.split('.')[0] for name, p in net.named_parameters() if not p.requires_grad}
    stem, stages = {'conv0', 'norm0', 'pool0'}, {'denseblock1', 'transition1', 'denseblock2'}
    assert frozen == {-1: set(), 0: stem, 2: stem | stages}[frozen_stages]
    # No part of these is half frozen.
    trained = {name.split('.')[0] for name, p in net.named_parameters() if p.requires_grad}
    assert not frozen & trained
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm):
            assert module.training != (name.split('.')[0] in frozen)


OPTIONS = {
    'no LIP in the stem': dict(lip_stem=False),
    'LIP in one transition': dict(lip_transitions=(False, False, True)),
    'two stages': dict(num_stages=2, out_indices=(0, 1)),
    'bottleneck 64': dict(transition_logit=dict(type='BottleneckLogit', width=64)),
    'projection': dict(
        stem_logit=dict(type='ProjectionLogit'), transition_logit=dict(type='ProjectionLogit')
    ),
    'SoftPool': dict(
        stem_logit=dict(type='IdentityLogit'), transition_logit=dict(type='IdentityLogit')
    ),
    'no gate': dict(gate_coefficient=None),
    'training statistics': dict(norm_eval=False),
    'GN': dict(norm_cfg=dict(type='GN', num_groups=2)),
    'weight standardization': dict(conv_cfg=dict(type='ConvWS'), norm_eval=False),
    'checkpointing': dict(with_cp=True),
}
OURS = ('lip_stem', 'lip_transitions', 'stem_logit', 'transition_logit', 'gate_coefficient')


@pytest.mark.parametrize('option', OPTIONS)
def test_options_train_and_keep_densenets_shapes(option):
    kwargs = {'depth': TINY, **OPTIONS[option]}
    net = MODELS.build(dict(type='LIPDenseNet', **copy.deepcopy(kwargs)))
    net.init_weights()
    features = train_step(net.train(), 2, 3, 65, 70)
    densenet = DenseNet(**{k: v for k, v in kwargs.items() if k not in OURS}).eval()
    with torch.no_grad():
        assert [f.shape for f in features] == [f.shape for f in densenet(torch.rand(2, 3, 65, 70))]


def test_gate_coefficient_reaches_every_logit_module():
    net = LIPDenseNet(TINY, gate_coefficient=6.0)
    assert [head.gate.coefficient for head in heads(net)] == [6.0] * 4


@pytest.mark.parametrize('size', [(29, 29), (32, 61), (33, 35)])
def test_smallest_images_train(size):
    train_step(LIPDenseNet(TINY, norm_eval=False).train(), 4, 3, *size)


def test_too_small_images_say_so():
    with pytest.raises(InputError, match=r'LIPDenseNet: images of 28 x 64 .* at least 29 x 29'):
        LIPDenseNet(TINY).eval()(torch.rand(1, 3, 28, 64))


def test_lip_gradients_need_no_full_precision():
    """Under autocast LIP's arithmetic stays in float32 inside."""
    net = LIPDenseNet(TINY).train()
    for head in heads(net):
        nn.init.normal_(head.conv.weight, std=10)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        train_step(net, 2, 3, 64, 64)


def test_a_copy_works():
    """MMEngine's EMA hook copies the whole model."""
    net = LIPDenseNet(TINY).eval()
    twin = copy.deepcopy(net)
    twin.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(twin(x)[-1], net(x)[-1])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=50), 'LIPDenseNet has no depth 50; there are 121, 161, 169, 201'),
        (
            dict(depth=121, lip_transitions=(True,) * 4),
            r'3 transitions.*\(True, True, True, True\)',
        ),
    ],
)
def test_bad_options_say_why_in_one_line(kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        LIPDenseNet(**kwargs)
    assert '\n' not in str(error.value)
