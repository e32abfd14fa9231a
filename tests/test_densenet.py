"""DenseNet: the paper's formula, torchvision's names and sizes, MMDetection's options."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from backbone_checks import (
    assert_same_tensors,
    multiply_adds,
    num_parameters,
    random_state_dict,
    skip_sync_bn_without_gpu,
    train_step,
)
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from seeded_weights import load_reference, seeded_image, seeded_state_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lip_mmdet.backbones import DenseNet
from lip_mmdet.errors import InputError

TINY = 9  # a depth of two layers a block and few channels, for what needs no numbers


@pytest.fixture(autouse=True)
def tiny_depth(monkeypatch):
    monkeypatch.setitem(DenseNet.arch_settings, TINY, (4, (2, 2, 2, 2)))


@pytest.fixture(scope='module')
def torchvisions():
    """A state dict of torchvision's DenseNet-121: LIP-DenseNet's without the logit modules."""
    shapes = load_reference('lip_densenet121')['state_dict_shapes']
    return seeded_state_dict({k: v for k, v in shapes.items() if '.logit.' not in k})


def densenet121(state, x):
    """The network of the paper, in functions, on torchvision's names."""

    def norm_relu(x, name):
        names = ('running_mean', 'running_var', 'weight', 'bias')
        return F.relu(F.batch_norm(x, *(state[f'features.{name}.{n}'] for n in names)))

    def conv(x, name, **kwargs):
        return F.conv2d(x, state[f'features.{name}.weight'], **kwargs)

    x = F.max_pool2d(norm_relu(conv(x, 'conv0', stride=2, padding=3), 'norm0'), 3, 2, 1)
    features = []
    for block, num_layers in enumerate((6, 12, 24, 16), start=1):
        for layer in (f'denseblock{block}.denselayer{i + 1}' for i in range(num_layers)):
            new = conv(norm_relu(x, f'{layer}.norm1'), f'{layer}.conv1')
            new = conv(norm_relu(new, f'{layer}.norm2'), f'{layer}.conv2', padding=1)
            x = torch.cat([x, new], 1)
        if block < 4:
            features.append(x)
            x = conv(norm_relu(x, f'transition{block}.norm'), f'transition{block}.conv')
            x = F.avg_pool2d(x, 2)
    return [*features, norm_relu(x, 'norm5')]


# --- the network ----------------------------------------------------------------------------------


def test_outputs_are_the_papers_formula(torchvisions):
    net = DenseNet(121).eval()
    net.load_state_dict(torchvisions)
    net.double()
    x = seeded_image((2, 3, 65, 94)).double()
    state = {k: v.double() for k, v in torchvisions.items()}
    for feature, expected in zip(net(x), densenet121(state, x)):
        torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize(
    ('depth', 'parameters', 'channels'),
    [
        (121, 7_978_856, [256, 512, 1024, 1024]),
        (161, 28_681_000, [384, 768, 2112, 2208]),
        (169, 14_149_480, [256, 512, 1280, 1664]),
        (201, 20_013_928, [256, 512, 1792, 1920]),
    ],
)
def test_sizes_are_torchvisions(depth, parameters, channels):
    net = DenseNet(depth).eval()
    assert num_parameters(net) + num_parameters(nn.Linear(channels[-1], 1000)) == parameters
    with torch.no_grad():
        features = net(torch.zeros(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == channels
    assert [f.shape[-1] for f in features] == [16, 8, 4, 2]


def test_cost_is_the_published():
    """2.88 G with norms and elementwise work."""
    assert multiply_adds(DenseNet(121)) + 1024 * 1000 == pytest.approx(2.88e9, rel=0.02)


# --- checkpoints ----------------------------------------------------------------------------------


def with_dots(state):
    """Names as in the files that torchvision released first, such as `denselayer1.norm.1`."""
    return {re.sub(r'(denselayer\d+\.(?:norm|conv))', r'\1.', k): v for k, v in state.items()}


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('classifier', [False, True])
@pytest.mark.parametrize(('prefix', 'wrapped'), [('', False), ('module.', True)])
def test_torchvisions_files_load_as_they_are(torchvisions, older, classifier, prefix, wrapped):
    state = with_dots(torchvisions) if older else torchvisions
    assert ('features.denseblock1.denselayer1.norm.1.weight' in state) == older
    state = {prefix + k: v for k, v in state.items() if classifier or 'classifier' not in k}
    state = dict(state_dict=state) if wrapped else state
    net = DenseNet(121)
    result = net.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    saved = net.official_state_dict()
    assert_same_tensors(saved, {k: torchvisions[k] for k in saved})
    assert len(torchvisions) - len(saved) == 2  # the classifier


def test_torchvisions_files_load_by_init_cfg(tmp_path, torchvisions):
    torch.save(with_dots(torchvisions), tmp_path / 'densenet.pth')
    net = DenseNet(121, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'densenet.pth')))
    net.init_weights()
    saved = net.official_state_dict()
    assert_same_tensors(saved, {k: torchvisions[k] for k in saved})


def test_own_state_dict_round_trip(tmp_path):
    net = DenseNet(TINY)
    state = random_state_dict(net)
    net.load_state_dict(state)
    assert_same_tensors(net.state_dict(), state)
    torch.save({f'backbone.{k}': v for k, v in state.items()}, tmp_path / 'detector.pth')
    detector = nn.Module()
    detector.backbone = DenseNet(TINY)
    load_checkpoint(detector, str(tmp_path / 'detector.pth'), strict=True)
    assert_same_tensors(detector.backbone.state_dict(), state)


def test_missing_weights_name_the_other_ways():
    missing = dict(type='Pretrained', checkpoint='checkpoints/nowhere.pth')
    with pytest.raises(InputError) as error:
        DenseNet(169, init_cfg=missing).init_weights()
    message = str(error.value)
    assert '\n' not in message
    for part in ('checkpoints/nowhere.pth', 'torchvision://densenet169', 'init_cfg=None'):
        assert part in message


def test_torchvisions_address_without_torchvision_gives_the_files_own(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    net = DenseNet(121, init_cfg=dict(type='Pretrained', checkpoint='torchvision://densenet121'))
    with pytest.raises(InputError, match=r'https://download\.pytorch\.org/models/densenet121-\w+'):
        net.init_weights()


def test_weights_of_another_depth_are_an_error():
    with pytest.raises(RuntimeError, match='denselayer25'):
        DenseNet(169).load_state_dict(DenseNet(121).state_dict())


# --- MMDetection's options ------------------------------------------------------------------------


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_keep_features_as_they_are(frozen_stages):
    net = DenseNet(TINY, frozen_stages=frozen_stages, norm_eval=False)
    assert net.train() is net
    parts = ['conv0.', 'norm0.', 'denseblock1.', 'transition1.', 'denseblock2.']
    frozen = {-1: [], 0: parts[:2], 1: parts[:3], 2: parts, 4: ['']}[frozen_stages]
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(frozen)), name
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm):
            assert module.training != f'{name}.'.startswith(tuple(frozen)), name
    features = net(torch.rand(2, 3, 64, 64))
    assert [f.requires_grad for f in features] == [i > frozen_stages for i in (1, 2, 3, 4)]


def test_train_and_eval_return_the_network():
    net = DenseNet(TINY)
    assert net.train() is net
    assert net.denseblock4.training
    assert not any(m.training for m in net.modules() if isinstance(m, _BatchNorm))  # norm_eval
    assert net.eval() is net
    assert not net.denseblock4.training


OPTIONS = {
    'grey images': dict(in_channels=1),
    'stem channels': dict(stem_channels=12),
    'narrow layers': dict(bn_size=2),
    'two stages': dict(num_stages=2, out_indices=(0, 1)),
    'last output alone': dict(out_indices=[3]),
    'GN': dict(norm_cfg=dict(type='GN', num_groups=2)),
    'SyncBN': dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
    'weight standardization': dict(conv_cfg=dict(type='ConvWS'), norm_eval=False),
    'training statistics': dict(norm_eval=False),
    'checkpointing': dict(with_cp=True),
    'checkpointing after frozen stages': dict(with_cp=True, frozen_stages=1),
}


@pytest.mark.parametrize('option', OPTIONS)
def test_options_train(option):
    kwargs = {'depth': TINY, **OPTIONS[option]}
    net = MODELS.build(dict(type='DenseNet', **copy.deepcopy(kwargs)))
    net.init_weights()
    # The statistics of SyncBN need a GPU.
    if option == 'SyncBN':
        skip_sync_bn_without_gpu()
    net.train(option != 'SyncBN')
    features = train_step(net, 2, kwargs.get('in_channels', 3), 65, 70)
    sizes = [(17, 18), (8, 9), (4, 4), (2, 2)]
    indices = kwargs.get('out_indices', (0, 1, 2, 3))
    assert [tuple(f.shape[2:]) for f in features] == [sizes[i] for i in indices]


def test_checkpointing_changes_no_number():
    plain = DenseNet(TINY).train()
    saving = DenseNet(TINY, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    for net in (plain, saving):
        train_step(net, 2, 3, 64, 64)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_initialization_is_kaimings():
    torch.manual_seed(0)
    net = DenseNet(121)
    net.init_weights()
    weight = net.denseblock4.denselayer1.conv2.weight
    # PyTorch's fan_out of a convolution to 32 channels.
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert net.norm5.weight.min() == 1


@pytest.mark.parametrize('size', [(29, 29), (32, 61), (33, 35)])
def test_smallest_images_train(size):
    train_step(DenseNet(TINY, norm_eval=False).train(), 4, 3, *size)


@pytest.mark.parametrize(('stages', 'least'), [(1, 1), (2, 5), (3, 13), (4, 29)])
def test_too_small_images_say_so(stages, least):
    net = DenseNet(TINY, num_stages=stages, out_indices=(0,)).eval()
    net(torch.rand(1, 3, least, least))
    if least > 1:
        with pytest.raises(InputError, match=f'{least - 1} x 64 .* at least {least} x {least}'):
            net(torch.rand(1, 3, least - 1, 64))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=50), 'no depth 50; there are 121, 161, 169, 201'),
        (dict(depth=121, num_stages=5), '1 to 4 stages, not 5'),
        (dict(depth=121, num_stages=2), r'among 0 to 1, not \(0, 1, 2, 3\)'),
        (dict(depth=121, out_indices=()), r'among 0 to 3, not \(\)'),
        (dict(depth=121, frozen_stages=5), 'to 4, not 5'),
    ],
)
def test_bad_options_say_why_in_one_line(kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        DenseNet(**kwargs)
    assert '\n' not in str(error.value)
