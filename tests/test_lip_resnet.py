"""LIP-ResNet: the authors' numbers, MMDetection's options, and what a checkpoint may look like."""

import copy
import logging
import os

import pytest
import torch
import torch.nn.functional as F
from backbone_checks import assert_outputs_are, skip_sync_bn_without_gpu
from mmdet.models import ResNet
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import load_checkpoint
from seeded_weights import load_reference, samples, seeded_image, seeded_state_dict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lip_mmdet.backbones import LIPResNet, LIPResNetMD, lip_resnet
from lip_mmdet.errors import InputError
from lip_mmdet.layers import LIPPool2d, LogitHead

SMALL = dict(base_channels=8)  # the same network with few channels, for what needs no numbers


@pytest.fixture(scope='module')
def reference():
    return load_reference('lip_resnet50')


@pytest.fixture(scope='module')
def official(reference):
    return seeded_state_dict(reference['state_dict_shapes'])


@pytest.fixture
def log(caplog):
    """What the plugin logs; MMEngine's loggers do not propagate by themselves."""
    logger = MMLogger.get_instance('lip_mmdet_test')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield caplog
    logger.removeHandler(caplog.handler)


def stock_resnet(**kwargs):
    net = ResNet(**kwargs)
    net.eval()  # returns None
    return net


def heads(net):
    return [m for m in net.modules() if isinstance(m, LogitHead)]


# --- the paper's network --------------------------------------------------------------------------


def test_outputs_and_loss_are_the_authors(reference, official):
    net = LIPResNet(50)
    net.load_state_dict(official)
    assert_outputs_are(reference, net)


@pytest.mark.gpu
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('implementation', ['fused', 'composed', 'compiled'])
def test_outputs_are_the_authors_on_a_gpu(
    reference, official, implementation, channels_last, monkeypatch
):
    """And, in half precision, close to them."""
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    net = LIPResNet(50, implementation=implementation, channels_last=channels_last)
    net.load_state_dict(official)
    expected = assert_outputs_are(reference, net.cuda())
    with torch.no_grad(), torch.autocast('cuda'):
        features = net(seeded_image(reference['input_shape']).cuda())
    for feature, exact in zip(features, expected):
        assert (feature.cpu() - exact).norm() < 0.02 * exact.norm()


def test_stem_is_the_authors(reference, official):
    net = LIPResNet(50).eval()
    net.load_state_dict(official)
    x = seeded_image(reference['input_shape'])
    stem = net.maxpool(net.relu(net.norm1(net.conv1(x))))
    expected = reference['outputs']['stem']
    values = torch.tensor(expected['samples'])
    torch.testing.assert_close(samples(stem, len(values)), values, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_authors(reference, official):
    """In float64: in float32 a rounding that tips one ReLU moves some norms by 1e-3, and which one
    depends on the number of threads."""
    net = LIPResNet(50).eval()
    net.load_state_dict(official)
    net.double()
    features = net(seeded_image(reference['input_shape']).double())
    sum(f.square().mean() for f in features).backward()
    # The official names, in the order of the parameters.
    names = [k for k in net.official_state_dict() if 'running' not in k and 'num_batches' not in k]
    norms = {name: p.grad.norm().item() for name, p in zip(names, net.parameters())}
    assert norms == pytest.approx(reference['grad_norms'], rel=1e-5)


@pytest.mark.parametrize(
    ('depth', 'parameters', 'multiply_adds'),
    [(50, 23_864_232, 5.300e9), (101, 42_856_360, 9.012e9)],
)
def test_size_is_the_published(depth, parameters, multiply_adds):
    net = LIPResNet(depth).eval()
    classifier = nn.Linear(2048, 1000)
    assert count(net) + count(classifier) == parameters
    total = 0

    def add(module, inputs, output):
        nonlocal total
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += output.numel() * kernel * module.in_channels // module.groups

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    assert total + 2048 * 1000 == pytest.approx(multiply_adds, rel=1e-4)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize('classifier', [True, False])
@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('wrapped', [True, False])
def test_official_files_load_as_they_are(tmp_path, official, classifier, prefix, wrapped):
    state = {prefix + k: v for k, v in official.items() if classifier or not k.startswith('fc.')}
    state = dict(state_dict=state, epoch=90) if wrapped else state
    net = LIPResNet(50)
    result = net.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    again = LIPResNet(50)
    torch.save(state, tmp_path / 'official.pth')
    load_checkpoint(again, str(tmp_path / 'official.pth'), strict=True)
    for loaded in (net, again):
        key = 'layer2.0.conv2.weight'
        torch.testing.assert_close(loaded.state_dict()[key], official['layer2.0.conv2.1.weight'])


def test_official_files_load_inside_a_detector(official):
    detector = nn.Module()
    detector.backbone = LIPResNet(50)
    detector.load_state_dict({f'backbone.{k}': v for k, v in official.items()})
    loaded = detector.backbone.maxpool.logit.norm.weight
    torch.testing.assert_close(loaded.data, official['maxpool.logit.bn.weight'])


def test_saving_under_official_names(reference, official):
    net = LIPResNet(50)
    net.load_state_dict(official)
    saved = net.official_state_dict()
    assert {k: list(v.shape) for k, v in saved.items()} == {
        k: v for k, v in reference['state_dict_shapes'].items() if not k.startswith('fc.')
    }
    for name, value in saved.items():
        torch.testing.assert_close(value, official[name])


def test_own_state_dict_round_trip():
    net = LIPResNet(50, **SMALL)
    state = {
        k: torch.rand(v.shape) if v.dtype.is_floating_point else v
        for k, v in net.state_dict().items()
    }
    net.load_state_dict(state)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_weights_come_back_through_ema_and_a_detector(official):
    """MMEngine's EMA hook keeps an averaged copy of the whole model."""
    detector = nn.Module()
    detector.backbone = LIPResNetMD(50)
    detector.backbone.load_state_dict(official)
    average = ExponentialMovingAverage(detector)
    average.update_parameters(detector)
    again = nn.Module()
    again.backbone = LIPResNetMD(50)
    again.load_state_dict(average.module.state_dict())
    copy_of = ExponentialMovingAverage(again)
    copy_of.load_state_dict(average.state_dict())
    for name, value in copy_of.module.state_dict().items():
        torch.testing.assert_close(value, detector.state_dict()[name], msg=name)


@pytest.mark.parametrize(
    'options',
    [
        dict(depth=18),
        dict(deep_stem=True),
        dict(avg_down=True),
        dict(lip_stem=False),
        dict(lip_stages=(False, False, True, True)),
        dict(stage_logit=dict(type='ProjectionLogit')),
        dict(norm_cfg=dict(type='GN', num_groups=4)),
        dict(plugins=[dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')]),
    ],
)
def test_networks_that_were_not_released_have_no_official_names(options):
    with pytest.raises(InputError, match='official names'):
        LIPResNet(**{'depth': 50, **SMALL, **options}).official_state_dict()


def test_incomplete_lip_weights_are_not_a_warm_start(official):
    state = {k: v for k, v in official.items() if k != 'layer3.0.bottleneck_shared.logit.bn1.bias'}
    with pytest.raises(RuntimeError, match=r'layer3\.0\.logit_trunk\.norm1\.bias'):
        LIPResNet(50).load_state_dict(state)


def test_missing_imagenet_weights_name_the_other_ways():
    missing = dict(type='Pretrained', checkpoint='checkpoints/nowhere.pth')
    net = LIPResNet(50, init_cfg=missing, **SMALL)
    with pytest.raises(InputError) as error:
        net.init_weights()
    message = str(error.value)
    assert '\n' not in message
    for part in ('checkpoints/nowhere.pth', 'torchvision://resnet50', 'init_cfg=None'):
        assert part in message


# --- initialization and freezing ------------------------------------------------------------------


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('initialize', [False, True])
def test_lip_averages_and_residuals_are_zero_at_the_start(depth, initialize):
    net = LIPResNet(depth, **SMALL).eval()
    if initialize:
        net.init_weights()
    x = torch.rand(2, 8, 12, 10)
    torch.testing.assert_close(net.maxpool(x), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    block = net.layer2[0]
    x = torch.rand(2, 8 * block.expansion, 9, 10)
    pooled = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(block(x), block.downsample(pooled).relu())
    assert len(heads(net)) == 7
    assert net.conv1.weight.abs().max() > 0


@pytest.mark.parametrize('zero', [True, False])
def test_zero_init_residual_can_be_switched_off(zero):
    net = LIPResNet(50, zero_init_residual=zero, **SMALL)
    net.init_weights()
    for layer in (net.layer1, net.layer3):
        for block in layer:
            assert (block.norm3.weight.abs().max() == 0) == zero


def test_a_pretrained_network_is_not_drawn_anew(tmp_path):
    source = LIPResNet(50, **SMALL)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    torch.save(source.state_dict(), tmp_path / 'net.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth'))
    net = LIPResNet(50, init_cfg=pretrained, **SMALL)
    net.init_weights()
    for (name, value), expected in zip(net.state_dict().items(), source.state_dict().values()):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize('deep_stem', [True, False])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages(frozen_stages, deep_stem):
    net = LIPResNet(50, frozen_stages=frozen_stages, deep_stem=deep_stem, norm_eval=False, **SMALL)
    assert net.train() is net
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    stem = ('stem.',) if deep_stem else ('conv1.', 'bn1.')
    parts = (*stem, 'maxpool.') if frozen_stages >= 0 else ()
    parts += tuple(f'layer{i}.' for i in range(1, frozen_stages + 1))
    assert frozen == {n for n, _ in net.named_parameters() if parts and n.startswith(parts)}
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm):
            assert module.training != (bool(parts) and f'{name}.'.startswith(parts))


def test_train_and_eval_return_the_network():
    net = LIPResNet(18, **SMALL)
    assert net.train() is net
    assert not any(m.training for m in net.modules() if isinstance(m, _BatchNorm))  # norm_eval
    assert net.eval() is net
    assert not net.layer4.training


# --- MMDetection's options ------------------------------------------------------------------------

OPTIONS = {
    'depth 18': dict(depth=18),
    'depth 34': dict(depth=34),
    'depth 152': dict(depth=152),
    'grey images': dict(in_channels=1),
    'stem channels': dict(stem_channels=16),
    'two stages': dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)),
    'dilated last stage': dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    'dilation with stride': dict(dilations=(1, 1, 2, 2)),
    'stride in the first stage': dict(strides=(2, 2, 2, 2)),
    'stride 4': dict(strides=(1, 2, 2, 4)),
    'one output': dict(out_indices=(3,)),
    'caffe style': dict(style='caffe'),
    'caffe style of basic blocks': dict(depth=18, style='caffe'),
    'deep stem': dict(deep_stem=True),
    'average down': dict(avg_down=True),
    'SyncBN': dict(norm_cfg=dict(type='SyncBN')),
    'GN': dict(norm_cfg=dict(type='GN', num_groups=4)),
    'weight standardization': dict(conv_cfg=dict(type='ConvWS')),
    'deformable': dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    'deformable with fallback': dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=True),
        stage_with_dcn=(False, False, False, True),
    ),
    'plugins': dict(
        plugins=[
            dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3'),
            dict(
                cfg=dict(type='GeneralizedAttention', num_heads=1, attention_type='0010'),
                stages=(False, True, False, False),
                position='after_conv2',
            ),
        ]
    ),
    'no zero init': dict(zero_init_residual=False),
    'no LIP in the stem': dict(lip_stem=False),
    'LIP in one stage': dict(lip_stages=(False, False, True, False)),
    'no LIP at all': dict(lip_stem=False, lip_stages=(False,) * 4),
    'bottleneck 64': dict(stage_logit=dict(type='BottleneckLogit', width=64)),
    'projection': dict(
        stage_logit=dict(type='ProjectionLogit'), stem_logit=dict(type='ProjectionLogit')
    ),
    'simplified': dict(stage_logit=dict(type='SimplifiedLogit'), depth=18),
    'SoftPool': dict(stage_logit=dict(type='IdentityLogit'), stem_logit=dict(type='IdentityLogit')),
    'no gate': dict(gate_coefficient=None),
}


OURS = ('lip_stem', 'lip_stages', 'stem_logit', 'stage_logit', 'gate_coefficient')


@pytest.mark.parametrize('option', OPTIONS)
def test_options_train_and_keep_resnets_shapes(option):
    kwargs = {'depth': 50, **SMALL, **OPTIONS[option]}
    net = MODELS.build(dict(type='LIPResNet', **copy.deepcopy(kwargs)))
    net.init_weights()
    # The statistics of SyncBN need a GPU.
    if option == 'SyncBN':
        skip_sync_bn_without_gpu()
    net.train(option != 'SyncBN')
    x = torch.rand(2, kwargs.get('in_channels', 3), 65, 70)
    features = net(x)
    resnet = stock_resnet(**copy.deepcopy({k: v for k, v in kwargs.items() if k not in OURS}))
    assert [f.shape for f in features] == [f.shape for f in resnet(x)]
    sum(f.square().mean() for f in features).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_sync_bn_is_built():
    net = LIPResNet(50, norm_cfg=dict(type='SyncBN'), **SMALL)
    assert isinstance(net.layer2[0].norm2, nn.SyncBatchNorm)


def test_no_lip_is_resnet():
    resnet = stock_resnet(depth=50, **SMALL)
    net = LIPResNet(50, lip_stem=False, lip_stages=(False,) * 4, **SMALL).eval()
    net.load_state_dict(resnet.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(net(x), resnet(x)):
        torch.testing.assert_close(ours, theirs)


def test_md_has_deformable_convolutions_where_3x3_are_left():
    net = LIPResNetMD(50, **SMALL)
    kinds = {
        f'{layer}.{i}': type(block.conv2).__name__
        for layer in net.res_layers
        for i, block in enumerate(getattr(net, layer))
    }
    for block, kind in kinds.items():
        plain = block.startswith('layer1') or block.endswith('.0')
        assert kind == ('Conv2d' if plain else 'ModulatedDeformConv2dPack'), block
    net.init_weights()
    assert net.layer3[1].conv2.conv_offset.weight.abs().max() == 0
    sum(f.mean() for f in net.train()(torch.rand(2, 3, 64, 64))).backward()


def test_checkpointing_changes_no_number():
    torch.manual_seed(0)
    plain = LIPResNet(50, zero_init_residual=False, **SMALL)
    saving = LIPResNet(50, zero_init_residual=False, with_cp=True, **SMALL)
    saving.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 64, 64)
    for net in (plain, saving):
        sum(f.square().mean() for f in net.train()(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize('size', [(64, 64), (33, 50)])
def test_implementations_and_memory_formats_give_the_same_numbers(size):
    torch.manual_seed(0)
    options = dict(zero_init_residual=False, norm_eval=False, **SMALL)
    reference = LIPResNet(50, implementation='composed', channels_last=False, **options).double()
    for head in heads(reference):
        nn.init.normal_(head.conv.weight, std=0.3)
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = reference.train()(x)
    sum(f.square().mean() for f in expected).backward()
    for channels_last in (None, False, True):
        net = LIPResNet(50, channels_last=channels_last, **options).double().train()
        net.load_state_dict(reference.state_dict())
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            net.zero_grad()
            features = net(image)
            assert all(f.is_contiguous() for f in features)
            torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
            sum(f.square().mean() for f in features).backward()
            for (name, p), q in zip(net.named_parameters(), reference.parameters()):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_implementations_share_their_state_dict():
    fused, reference = (LIPResNet(50, implementation=i, **SMALL) for i in ('fused', 'composed'))
    assert list(fused.state_dict()) == list(reference.state_dict())
    reference.load_state_dict(fused.state_dict())


def test_deformable_networks_read_any_memory_format():
    """mmcv's deformable convolutions take memory as contiguous, whatever the strides say."""
    torch.manual_seed(0)
    net = LIPResNetMD(50, **SMALL).eval()
    for module in net.modules():
        if hasattr(module, 'conv_offset'):
            nn.init.normal_(module.conv_offset.weight, std=0.1)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), net(x))
    # Weights of that format would turn every map.
    with pytest.raises(InputError, match='misread channels_last maps'):
        net.to(memory_format=torch.channels_last)(x)


@pytest.mark.parametrize('size', [(1, 1), (5, 9), (17, 31), (32, 32), (33, 65)])
@pytest.mark.parametrize('depth', [18, 50])
def test_small_images_train(size, depth):
    net = LIPResNet(depth, norm_eval=False, **SMALL).train()
    features = net(torch.rand(4, 3, *size))
    sum(f.sum() for f in features).backward()
    assert all(f.isfinite().all() for f in features)


def test_lip_gradients_need_no_full_precision():
    """Under autocast LIP's arithmetic stays in float32 inside."""
    torch.manual_seed(0)
    net = LIPResNet(50, **SMALL).train()
    for head in heads(net):
        nn.init.normal_(head.conv.weight, std=10)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = net(torch.rand(2, 3, 64, 64))
        loss = sum(f.float().square().mean() for f in features)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_copy_works():
    """MMEngine's EMA hook copies the whole model."""
    net = LIPResNet(18, **SMALL).eval()
    twin = copy.deepcopy(net)
    twin.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(twin(x)[-1], net(x)[-1])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=20), 'no depth 20; there are 18, 34, 50, 101, 152'),
        (
            dict(depth=50, lip_stages=(True,) * 4),
            r'lip_stages\[0\] asks for LIP where strides\[0\]',
        ),
        (dict(depth=50, lip_stages=(False, True)), 'as many lip_stages and strides'),
        (dict(depth=50, strides=(1, 2)), 'num_stages=4'),
        (dict(depth=50, norm_cfg=dict(type='GN', num_groups=48)), "'num_groups': 48} for 64 chan"),
        (
            dict(depth=50, stem_logit=dict(type='SimplifiedLogit', norm_cfg=dict(type='Nothing'))),
            "no norm {'type': 'Nothing'}",
        ),
        (dict(depth=50, dcn=dict(type='DCNv2'), channels_last=True), 'channels_last out where dcn'),
        (dict(depth=18, dcn=dict(type='DCNv2')), 'dcn needs .* instead of 18'),
        (
            dict(depth=34, plugins=[dict(cfg=dict(type='SGE'), position='after_conv3')]),
            'plugins needs .* instead of 34',
        ),
    ],
)
def test_bad_options_say_why_in_one_line(kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        LIPResNet(**kwargs)
    assert '\n' not in str(error.value)


def test_plugin_registers_everything():
    for name in ('LIPResNet', 'LIPResNetMD', 'LIPPool2d', 'BottleneckLogit'):
        assert MODELS.get(name) is not None
    assert isinstance(MODELS.build(dict(type='LIPPool2d', in_channels=8)), LIPPool2d)


def test_weights_stay_where_the_user_put_them(tmp_path):
    """In one format, so that they can be saved, gathered in a vector, and optimized as one."""
    net = LIPResNet(18, **SMALL)
    assert all(p.is_contiguous() for p in net.parameters())
    vector = nn.utils.parameters_to_vector(net.parameters())
    x = torch.rand(2, 3, 32, 32)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1e-3, max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = sum(f.square().mean() for f in net(x))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(vector, nn.utils.parameters_to_vector(net.parameters()))
    torch.save(net, tmp_path / 'net.pth')
    kwargs = {} if torch.__version__ < '1.13' else dict(weights_only=False)
    again = torch.load(tmp_path / 'net.pth', **kwargs)
    torch.testing.assert_close(again.eval()(x), net.eval()(x))


@pytest.mark.skipif(not hasattr(torch, 'compiler'), reason='needs torch >= 2.1')
def test_a_whole_network_compiles():
    net = LIPResNet(18, **SMALL).eval()
    x = torch.rand(1, 3, 32, 32)
    compiled = torch.compile(net, backend='aot_eager')
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-4)


def test_checkpointing_covers_every_block_after_frozen_stages(monkeypatch):
    checkpointed, checkpoint = [], lip_resnet.checkpoint

    def count(block, x):
        checkpointed.append(block)
        return checkpoint(block, x)

    monkeypatch.setattr(lip_resnet, 'checkpoint', count)
    net = LIPResNet(50, with_cp=True, frozen_stages=1, **SMALL).train()
    sum(f.mean() for f in net(torch.rand(1, 3, 64, 64))).backward()
    assert checkpointed == [b for layer in net.res_layers for b in getattr(net, layer)]


def _shard(rank, folder):
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    torch.manual_seed(0)
    net = LIPResNet(18, **SMALL)
    x = torch.rand(2, 3, 32, 32)
    expected = [f.detach() for f in net(x)]
    mesh = distributed.device_mesh.init_device_mesh('cpu', (2,))
    for layer in net.res_layers:
        for block in getattr(net, layer):
            fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    features = net(x)
    torch.testing.assert_close([f.detach() for f in features], expected)
    sum(f.mean() for f in features).backward()
    assert all(p.grad is not None for p in net.parameters())
    distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that is taken down in order


def test_fully_shard_over_two_processes(tmp_path):
    fsdp = pytest.importorskip('torch.distributed.fsdp')
    if not hasattr(fsdp, 'fully_shard'):
        pytest.skip('needs torch >= 2.6')
    torch.multiprocessing.spawn(_shard, (str(tmp_path),), nprocs=2)
