"""What a backbone's tests measure: the authors' figures, its size, and its log."""

import contextlib
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from seeded_weights import samples, seeded_image
from torch import nn


def assert_outputs_are(reference, net):
    """Compare the features with a reference file's, in float32; ``net`` has its weights.

    Return them, on the CPU.
    """
    device = next(net.parameters()).device
    with torch.no_grad():
        features = net.eval()(seeded_image(reference['input_shape']).to(device))
    features = [feature.cpu() for feature in features]
    expected = [reference['outputs'][f'stage{i}'] for i in (1, 2, 3, 4)]
    assert [list(f.shape) for f in features] == [e['shape'] for e in expected]
    for feature, figures in zip(features, expected):
        assert feature.mean().item() == pytest.approx(figures['mean'], rel=1e-4)
        assert feature.std().item() == pytest.approx(figures['std'], rel=1e-4)
        assert_samples(feature, figures)
    loss = sum(f.double().square().mean() for f in features)
    assert loss.item() == pytest.approx(reference['loss_value'], rel=1e-4)
    return features


def assert_samples(tensor, figures):
    values = torch.tensor(figures['samples'])
    torch.testing.assert_close(samples(tensor, len(values)), values, rtol=1e-4, atol=1e-5)


def assert_gradients_are(reference, net):
    """Compare the gradients' norms, in float64: in float32 one tipped ReLU moves some by 1e-3."""
    net.eval().double()
    features = net(seeded_image(reference['input_shape']).double())
    sum(f.square().mean() for f in features).backward()
    # The official names, in the order of the parameters.
    names = [k for k in net.official_state_dict() if 'running' not in k and 'num_batches' not in k]
    norms = {name: p.grad.norm().item() for name, p in zip(names, net.parameters())}
    assert norms == pytest.approx(reference['grad_norms'], rel=1e-5)


def skip_sync_bn_without_gpu():
    """Leave a test of SyncBN in eval mode out where torch, as 1.13 does, refuses it on the CPU."""
    try:
        nn.SyncBatchNorm(1).eval()(torch.zeros(1, 1, 1, 1))
    except ValueError as error:
        pytest.skip(str(error))


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def multiply_adds(net):
    """Count those of the convolutions on one image of 224 x 224 pixels."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += output.numel() * kernel * module.in_channels // module.groups

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 224, 224))
    return total


def random_state_dict(net):
    return {
        name: torch.rand(value.shape) if value.dtype.is_floating_point else value
        for name, value in net.state_dict().items()
    }


def assert_same_tensors(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for name, value in state_dict.items():
        assert torch.equal(value, expected[name]), name


def train_step(net, *shape):
    """Run forward and backward on random images; return the features."""
    torch.manual_seed(0)
    features = net(torch.rand(*shape))
    sum(f.float().square().mean() for f in features).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    return features


@contextlib.contextmanager
def warm_starts():
    """Collect the lines about warm starts; MMEngine's loggers do not propagate by themselves."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            if 'warm start' in record.getMessage():
                lines.append(record.getMessage())

    logger, handler = MMLogger.get_instance('lip_mmdet_test'), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
