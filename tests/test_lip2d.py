"""The operator against the paper's formula, PyTorch's own pools and numerical gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from lip_mmdet.ops import lip2d

WINDOWS = [
    (3, 2, 1),
    (2, 2, 0),
    (1, 1, 0),
    (3, 1, 1),
    (5, 3, 2),
    (2, 3, 1),  # windows that skip positions
    ((3, 2), (2, 1), (1, 0)),
]


def formula(x, logit, kernel_size, stride, padding):
    """Equation 2 in float64, window by window, with the weights of padding at zero."""
    window = [(v, v) if isinstance(v, int) else v for v in (kernel_size, stride, padding)]
    (kh, kw), (sh, sw), (ph, pw) = window
    pad = (pw, pw, ph, ph)
    values = F.pad(x.double(), pad)
    log_weights = F.pad(logit.double(), pad, value=float('-inf'))
    rows = (values.shape[2] - kh) // sh + 1
    columns = (values.shape[3] - kw) // sw + 1
    output = values.new_zeros(*x.shape[:2], rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        where = (..., slice(i * sh, i * sh + kh), slice(j * sw, j * sw + kw))
        weights = log_weights[where].flatten(2).softmax(-1)
        output[..., i, j] = (weights * values[where].flatten(2)).sum(-1)
    return output


def maps(shape, dtype=torch.float64, spread=4.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    logit = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), logit.to(dtype)


@pytest.mark.parametrize('window', WINDOWS)
@pytest.mark.parametrize('size', [(6, 8), (7, 5), (2, 9)])
def test_equals_the_formula(window, size):
    x, logit = maps((2, 3, *size))
    torch.testing.assert_close(lip2d(x, logit, *window), formula(x, logit, *window))


@pytest.mark.parametrize('window', WINDOWS)
def test_gradients_are_right(window):
    x, logit = (t.requires_grad_() for t in maps((2, 2, 6, 5)))
    assert gradcheck(lambda a, b: lip2d(a, b, *window), (x, logit))


@pytest.mark.parametrize('only', [0, 1])
def test_gradient_of_one_input_alone(only):
    x, logit = maps((1, 2, 5, 5))
    together = [t.clone().requires_grad_() for t in (x, logit)]
    lip2d(*together).square().sum().backward()
    alone = [x.clone(), logit.clone()]
    alone[only].requires_grad_()
    lip2d(*alone).square().sum().backward()
    torch.testing.assert_close(alone[only].grad, together[only].grad)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]
)
def test_low_precision_rounds_only_the_result(dtype, tolerance):
    x, logit = maps((2, 4, 9, 11), dtype)
    output = lip2d(x, logit)
    assert output.dtype == dtype
    exact = formula(x, logit, 3, 2, 1)
    torch.testing.assert_close(output.double(), exact, rtol=tolerance, atol=tolerance)


def test_float64_in_either_input_is_kept():
    x, logit = maps((2, 3, 7, 8))
    for inputs in ((x, logit.float()), (x.float(), logit)):
        inputs = [t.requires_grad_() for t in inputs]
        exact = [t.detach().double().requires_grad_() for t in inputs]
        output = lip2d(*inputs)
        assert output.dtype == inputs[0].dtype
        tolerance = 1e-12 if output.dtype == torch.float64 else 1e-6
        expected = lip2d(*exact)
        torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
        output.double().square().sum().backward()
        expected.square().sum().backward()
        for one, other in zip(inputs, exact):
            assert one.grad.dtype == one.dtype
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_the_full_soft_gate_fits_any_dtype(dtype):
    """exp(12) is past float16's largest number; neither pass may meet it."""
    x, _ = maps((1, 2, 8, 8), dtype)
    logit = torch.zeros_like(x)
    logit[..., ::2, ::3] = 12
    x.requires_grad_()
    logit.requires_grad_()
    output = lip2d(x, logit)
    output.sum().backward()
    for tensor in (output, x.grad, logit.grad):
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()


@pytest.mark.parametrize('levels', [(-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4)])
def test_extreme_logits_stay_finite_and_exact(levels):
    """A window far below the map's maximum must not become 0/0."""
    x, _ = maps((1, 2, 16, 16), torch.float32)
    logit = torch.full_like(x, levels[0])
    logit[..., 9:] = levels[1]
    x.requires_grad_()
    logit.requires_grad_()
    output = lip2d(x, logit)
    output.square().sum().backward()
    exact = formula(x.detach(), logit.detach(), 3, 2, 1).float()
    torch.testing.assert_close(output, exact, rtol=1e-5, atol=1e-6)
    assert x.grad.isfinite().all()
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize('window', [(3, 2, 1), (2, 2, 0), ((3, 2), (2, 1), (1, 0))])
def test_constant_logit_is_average_pooling(window):
    x, _ = maps((2, 3, 9, 8))
    average = F.avg_pool2d(x, *window, count_include_pad=False)
    torch.testing.assert_close(lip2d(x, torch.full_like(x, 7.0), *window), average)


@pytest.mark.parametrize('window', [(3, 2, 1), (2, 2, 0)])
def test_steep_logit_is_max_pooling(window):
    x, _ = maps((2, 3, 9, 8))
    torch.testing.assert_close(lip2d(x, 1e4 * x, *window), F.max_pool2d(x, *window))


def test_identity_logit_is_softpool():
    """SoftPool: the ratio of two average pools, here without padding."""
    x, _ = maps((2, 3, 8, 8))
    softpool = F.avg_pool2d(x * x.exp(), 2) / F.avg_pool2d(x.exp(), 2)
    torch.testing.assert_close(lip2d(x, x, 2, 2, 0), softpool)


def test_memory_layout_changes_nothing():
    x, logit = maps((2, 4, 9, 7))
    expected = lip2d(x, logit)
    last = torch.channels_last
    output = lip2d(x.contiguous(memory_format=last), logit.contiguous(memory_format=last))
    assert output.is_contiguous(memory_format=last)
    torch.testing.assert_close(output, expected)
    strided = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in (x, logit)]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(lip2d(*strided), expected)
    torch.testing.assert_close(lip2d(x, logit.contiguous(memory_format=last)), expected)


def test_empty_batch():
    x = torch.zeros(0, 4, 8, 8, requires_grad=True)
    output = lip2d(x, x.detach())
    assert output.shape == (0, 4, 4, 4)
    output.sum().backward()


@pytest.mark.parametrize('learn_logit', [True, False])
def test_what_follows_may_overwrite_the_output_in_place(learn_logit):
    x, logit = maps((1, 2, 8, 8))
    x.requires_grad_()
    logit.requires_grad_(learn_logit)
    inputs = [x, logit] if learn_logit else [x]
    expected = torch.autograd.grad(lip2d(x, logit).relu().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(lip2d(x, logit).relu_().sum(), inputs), expected)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda x: lip2d(x[0], x[0]), r'\(4, 8, 8\)'),
        (lambda x: lip2d(x, x[:, :2]), r'\(2, 2, 8, 8\)'),
        (lambda x: lip2d(x.int(), x), 'torch.int32'),
        (lambda x: lip2d(x, x, kernel_size=0), 'kernel_size .* not 0'),
        (lambda x: lip2d(x, x, kernel_size=(3, 3, 3)), r'\(3, 3, 3\)'),
        (lambda x: lip2d(x, x, stride=0), 'stride .* not 0'),
        (lambda x: lip2d(x, x, padding=-1), 'padding .* not -1'),
        (lambda x: lip2d(x, x, kernel_size=3, padding=2), r'padding \(2, 2\)'),
        (lambda x: lip2d(x, x, kernel_size=11), r'kernel_size \(11, 11\)'),
        (lambda x: lip2d(x, x.to('meta')), 'one device'),
        (lambda x: lip2d(x, x, kernel_size=2.5), 'not 2.5'),
    ],
)
def test_bad_arguments_name_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 4, 8, 8))
