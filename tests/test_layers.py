"""Logit modules and the pooling layer, against PyTorch's own pools and the paper's structure."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers import (
    BottleneckLogit,
    DepthwiseLogit,
    InstanceNorm2d,
    LIPPool2d,
    LogitHead,
    ProjectionLogit,
    SimplifiedLogit,
    SoftGate,
    implementation,
    set_implementation,
)
from lip_mmdet.ops import lip2d

LOGITS = [
    dict(type='SimplifiedLogit'),
    dict(type='ProjectionLogit'),
    dict(type='DepthwiseLogit'),
    dict(type='BottleneckLogit', width=64),
    dict(type='BottleneckLogit', width=256),
]


def shapes(module):
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def test_modules_have_the_papers_layers():
    head = {'conv.weight': (8, 8, 3, 3), 'norm.weight': (8,), 'norm.bias': (8,)}
    assert shapes(SimplifiedLogit(8)) == head
    assert shapes(DepthwiseLogit(8)) == {**head, 'conv.weight': (8, 1, 3, 3)}
    assert shapes(ProjectionLogit(8)) == {**head, 'conv.weight': (8, 8, 1, 1)}
    assert shapes(BottleneckLogit(8, width=4)) == {
        'trunk.conv1.weight': (4, 8, 1, 1),
        'trunk.norm1.weight': (4,),
        'trunk.norm1.bias': (4,),
        'trunk.conv2.weight': (4, 4, 3, 3),
        'trunk.norm2.weight': (4,),
        'trunk.norm2.bias': (4,),
        'head.conv.weight': (8, 4, 1, 1),
        'head.norm.weight': (8,),
        'head.norm.bias': (8,),
    }


@pytest.mark.parametrize('logit', LOGITS)
@pytest.mark.parametrize('window', [(3, 2, 1), (2, 2, 0)])
def test_every_pool_starts_as_average_pooling(logit, window):
    x = torch.randn(2, 8, 9, 12)
    pool = LIPPool2d(8, logit, *window)
    average = F.avg_pool2d(x, *window, count_include_pad=False)
    torch.testing.assert_close(pool(x), average)
    pool.init_weights()
    torch.testing.assert_close(pool(x), average)


def test_average_softpool_and_max_pooling_are_config_lines():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)

    def pool(scale):
        logit = dict(type='IdentityLogit', scale=scale)
        return MODELS.build(
            dict(type='LIPPool2d', in_channels=8, logit=logit, kernel_size=2, padding=0)
        )(x)

    torch.testing.assert_close(pool(0.0), F.avg_pool2d(x, 2))
    torch.testing.assert_close(pool(1e8), F.max_pool2d(x, 2))
    softpool = F.avg_pool2d(x * x.exp(), 2) / F.avg_pool2d(x.exp(), 2)
    torch.testing.assert_close(pool(1.0), softpool)


def test_logit_learns_what_matters():
    """Trained towards max pooling, LIP leaves average pooling behind."""
    torch.manual_seed(0)
    x = torch.randn(4, 4, 12, 12)
    target = F.max_pool2d(x, 3, 2, 1)
    pool = LIPPool2d(4, dict(type='ProjectionLogit'))
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(pool(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize('logit', [*LOGITS, dict(type='SimplifiedLogit', gate_coefficient=None)])
def test_implementations_equal_the_pooled_logit(logit):
    """Pooling in one go is pooling by the logit that the module would write down."""
    torch.manual_seed(0)
    pool = LIPPool2d(8, logit).double()
    for parameter in pool.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 9, 12, dtype=torch.float64)
    expected = lip2d(x, pool.logit(x))
    torch.testing.assert_close(pool(x), expected)
    set_implementation(pool, 'composed')
    torch.testing.assert_close(pool(x), expected)


def test_implementation_is_chosen_by_config():
    pool = MODELS.build(dict(type='LIPPool2d', in_channels=4, implementation='composed'))
    assert pool.implementation == pool.logit.norm.implementation == 'composed'
    assert LIPPool2d(4, implementation='reference').implementation == 'composed'  # its old name
    with pytest.raises(InputError, match="'quick'; there are 'fused', 'composed', 'compiled'"):
        LIPPool2d(4, implementation='quick')


def test_composed_where_fused_never_ran_and_where_no_compiler_is(monkeypatch):
    monkeypatch.setattr(implementation, 'FUSED_DEVICES', ())
    x = torch.rand(1, 4, 8, 8)
    assert implementation.choose_operators(None, x) is implementation.COMPOSED
    assert implementation.choose_operators('fused', x) is implementation.FUSED

    def fail(*_, **__):
        raise RuntimeError('no C++ compiler')

    implementation.has_compiler.cache_clear()
    monkeypatch.setattr(torch, 'compile', fail, raising=False)
    assert implementation.choose_operators('compiled', x) is implementation.COMPOSED
    implementation.has_compiler.cache_clear()


def test_any_module_from_features_to_a_logit_is_a_logit_module():
    pool = LIPPool2d(4)
    pool.logit = nn.Conv2d(4, 4, 1)
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(pool(x), lip2d(x, pool.logit(x)))


def test_a_trunks_norm_can_be_exchanged():
    logit = BottleneckLogit(8, width=4)
    logit.trunk.norm1 = nn.GroupNorm(2, 4)
    x = torch.randn(1, 8, 6, 6)
    first = logit.trunk.norm1(logit.trunk.conv1(x)).relu()
    expected = logit.trunk.norm2(logit.trunk.conv2(first)).relu()
    torch.testing.assert_close(logit.trunk(x), expected)


def test_soft_gate_is_twelve_sigmoid():
    x = torch.tensor([-1e4, -1.0, 0.0, 2.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(SoftGate()(x), 12 / (1 + (-x).exp()))
    assert SoftGate(6.0)(x).max() == 6


def test_gate_can_be_left_out():
    x = torch.randn(2, 3, 8, 8)
    head = LogitHead(3, 5, 1, gate_coefficient=None)
    nn.init.normal_(head.conv.weight)
    torch.testing.assert_close(head(x), F.instance_norm(F.conv2d(x, head.conv.weight)))


def test_instance_norm_equals_pytorchs_and_takes_single_positions():
    norm = InstanceNorm2d(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 5, 3)
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm(x), expected)
    one = torch.randn(2, 4, 1, 1, requires_grad=True)
    torch.testing.assert_close(norm(one), norm.bias.view(1, 4, 1, 1).expand(2, 4, 1, 1))
    norm(one).sum().backward()
    assert one.grad.abs().max() == 0
    assert norm.weight.grad is not None


def test_pool_works_under_autocast():
    pool = LIPPool2d(4)
    nn.init.normal_(pool.logit.conv.weight)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = pool(x)
    torch.testing.assert_close(output.float(), pool(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: SoftGate(0), 'positive coefficient, not 0'),
        (lambda: BottleneckLogit(8, width=0), 'positive int, not 0'),
        (lambda: BottleneckLogit(8, width=1.5), 'positive int, not 1.5'),
    ],
)
def test_bad_arguments_name_the_offending_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('local', [True, False])
def test_hooks_hold_true_values(local):
    """Nothing writes into what a layer has returned, whether gradients are on or off."""
    logit, seen = BottleneckLogit(8, width=8), []

    def keep(layer, args, output):
        seen.append((output, output.clone()))

    hook = (
        logit.trunk.conv1.register_forward_hook(keep)
        if local
        else nn.modules.module.register_module_forward_hook(keep)
    )
    with torch.no_grad():
        logit(torch.randn(1, 8, 6, 6))
    hook.remove()
    assert seen
    assert all(torch.equal(*pair) for pair in seen)
