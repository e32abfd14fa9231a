"""What is recorded of LIP is what it weighs by, and recording changes nothing."""

import copy
import math

import pytest
import torch
from torch import nn

from lip_mmdet.backbones import LIPDenseNet, LIPResNet
from lip_mmdet.layers import LIPPool2d, record_importance, set_implementation
from lip_mmdet.layers.recording import selectivity


def randomised(net):
    """Give norms and the zero convolutions of logit modules weights that show."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
        elif getattr(module, 'weight', None) is not None and module.weight.dim() == 1:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    return net


def entropy_gap(window):
    """The definition, for one window of one channel: log of its size minus its entropy."""
    shares = window.flatten().softmax(0)
    return math.log(shares.numel()) + (shares * shares.log()).sum()


def test_selectivity_is_log_positions_minus_entropy():
    torch.manual_seed(0)
    logit = 3 * torch.randn(2, 3, 7, 6, dtype=torch.float64)
    for kernel, stride, padding in ((3, 2, 1), (2, 2, 0), ((1, 3), (1, 2), (0, 1))):
        got = selectivity(logit, kernel, stride, padding)
        (kh, kw), (sh, sw), (ph, pw) = (
            v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding)
        )
        for y in range(got.shape[1]):
            for x in range(got.shape[2]):
                top, left = y * sh - ph, x * sw - pw
                window = logit[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw]
                for n in range(2):
                    expected = torch.stack([entropy_gap(window[n, c]) for c in range(3)]).mean()
                    torch.testing.assert_close(got[n, y, x], expected)
    # Averaging is 0, at borders too; one position of a full window is log of its size.
    assert selectivity(torch.zeros(1, 2, 9, 9)).max() < 1e-6
    one = torch.full((1, 1, 9, 9), -1e4)
    one[..., ::2, ::2] = 1e4
    assert selectivity(one)[0, 2, 2] == pytest.approx(math.log(9))
    assert selectivity(one)[0, 0, 0] == pytest.approx(math.log(4))


NETWORKS = [
    lambda: LIPResNet(depth=18, base_channels=8, init_cfg=None),
    lambda: LIPResNet(
        depth=50,
        base_channels=8,
        style='caffe',
        with_cp=True,
        stem_logit=dict(type='BottleneckLogit', width=8, norm_cfg=dict(type='BN')),
        stage_logit=dict(type='ProjectionLogit', gate_coefficient=None),
        init_cfg=None,
    ),
    lambda: LIPDenseNet(depth=121, init_cfg=None),
]


@pytest.mark.parametrize('number', range(len(NETWORKS)))
@pytest.mark.parametrize(
    'implementation',
    ['fused', 'composed', 'amp', pytest.param('compiled', marks=pytest.mark.slow)],
)
def test_recording_changes_nothing(number, implementation):
    net = randomised(NETWORKS[number]())
    set_implementation(net, None if implementation == 'amp' else implementation)
    images = torch.rand(2, 3, 64, 64)

    def run(net):
        with torch.autocast('cpu', torch.bfloat16, enabled=implementation == 'amp'):
            features = net(images)
        sum(f.float().square().mean() for f in features).backward()
        state = [*net.state_dict().values()]  # with running statistics
        return [*features, *state, *(p.grad for p in net.parameters() if p.grad is not None)]

    watched = copy.deepcopy(net)
    before = run(net)
    with record_importance(watched) as maps:
        during = run(watched)
    assert all(torch.equal(a, b) for a, b in zip(before, during)) and len(before) == len(during)
    assert len(maps) == (4 if number == 2 else 7)
    count = len(maps['maxpool' if number < 2 else next(iter(maps))].selectivity)
    assert count == 2
    kept = dict(maps)
    net(images)
    watched(images)
    assert maps == kept  # nothing is recorded after the block


def test_the_recorded_logit_is_that_of_the_logit_module():
    net = randomised(LIPResNet(depth=18, base_channels=8, init_cfg=None)).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = {}
    trunk = net.layer2[0].logit_trunk
    net.maxpool.register_forward_pre_hook(
        lambda m, args: expected.update({'maxpool': m.logit(args[0])})
    )
    trunk.register_forward_hook(
        lambda m, args, out: expected.update(
            {f'layer2.0.{n}': getattr(net.layer2[0], n)(out) for n in NAMES}
        )
    )
    NAMES = ('residual_logit', 'shortcut_logit')
    with torch.no_grad(), record_importance(net) as maps:
        net(images)
    assert next(iter(maps)) == 'maxpool'
    for name, logit in expected.items():
        torch.testing.assert_close(maps[name].logit, logit, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(maps[name].selectivity, selectivity(maps[name].logit))
        assert maps[name].largest == math.log(9)


def test_names_are_those_of_the_wrapped_model_and_recorders_nest():
    pool = randomised(LIPPool2d(4))
    net = nn.Sequential(nn.Identity(), pool)
    x = torch.rand(1, 4, 9, 9)
    wrapped = net if torch.cuda.is_available() else nn.DataParallel(net)
    with record_importance(wrapped) as outer, record_importance(pool) as inner:
        net(x)
    assert list(outer) == ['1'] and list(inner) == ['']
    assert outer['1'] is inner['']
    with pytest.raises(RuntimeError), record_importance(net):
        raise RuntimeError
    net(x)
    assert list(outer) == ['1']
