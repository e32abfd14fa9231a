"""The fused operators against their formulas in float64, and within PyTorch's machinery."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from lip_mmdet.ops import (
    gated_lip2d,
    gated_lip2d_reference,
    instance_norm,
    instance_norm_reference,
    kernels,
    lip2d,
    operator,
    tiles,
    to_contiguous,
)
from lip_mmdet.ops.operator import HAS_CUSTOM_OPERATORS

LAST = torch.channels_last
LAYOUTS = [torch.contiguous_format, LAST]
WINDOWS = [
    (3, 2, 1),
    (2, 2, 0),
    (1, 1, 0),
    (3, 1, 1),
    (5, 1, 2),  # windows that share more rows than they move by
    (5, 3, 2),
    (2, 3, 1),  # windows that skip positions
    ((3, 2), (2, 1), (1, 0)),
]
SIZES = [(6, 8), (7, 5), (2, 9), (13, 3)]

needs_custom_operators = pytest.mark.skipif(not HAS_CUSTOM_OPERATORS, reason='needs torch >= 2.4')
needs_torch_func = pytest.mark.skipif(not hasattr(torch, 'func'), reason='needs torch >= 2.0')


@pytest.fixture(params=[pytest.param(True, marks=needs_custom_operators), False])
def either_path(request, monkeypatch):
    """Run as a custom operator, and as the autograd function of older torch."""
    monkeypatch.setattr(operator, 'HAS_CUSTOM_OPERATORS', request.param)


def formula(x, raw, weight, bias, window, coefficient=12.0, eps=1e-5):
    """Section 3.4's head and equation 2, in float64, of plain arithmetic."""
    x, raw, weight, bias = (t.double() for t in (x, raw, weight, bias))
    mean = raw.mean((2, 3), keepdim=True)
    variance = (raw - mean).square().mean((2, 3), keepdim=True)
    z = (raw - mean) / (variance + eps).sqrt() * weight[:, None, None] + bias[:, None, None]
    importance = (coefficient * z.sigmoid()).exp()
    pooled = [F.avg_pool2d(t, *window) for t in (x * importance, importance)]
    return pooled[0] / pooled[1]


def inputs(shape, dtype=torch.float64, layout=torch.contiguous_format, spread=2.0):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, raw = draw(*shape), 1 + spread * draw(*shape)
    maps = [t.to(dtype).contiguous(memory_format=layout) for t in (x, raw)]
    affine = [draw(shape[1]).to(torch.promote_types(dtype, torch.float32)) for _ in range(2)]
    return [t.requires_grad_() for t in (*maps, *affine)]


def gradients(output, arguments):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return torch.autograd.grad(output, arguments, weights)


def assert_close(results, expected, tolerance):
    """Compare to ``tolerance`` times the largest value, or 1: sums that cancel have no digits."""
    for result, value in zip(results, expected):
        scale = value.abs().max().item() if value.numel() else 1.0
        torch.testing.assert_close(
            result.double(), value.double(), rtol=0, atol=tolerance * max(scale, 1.0)
        )


# --- the formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('window', WINDOWS)
@pytest.mark.parametrize('tile_elements', [1, 100, 1 << 18])
def test_forward_and_backward_equal_the_formula(monkeypatch, window, layout, tile_elements):
    """Whatever the tiles, their borders and the rows that windows share across them."""
    monkeypatch.setattr(tiles, 'TILE_ELEMENTS', tile_elements)
    for size in SIZES:
        arguments = inputs((2, 3, *size), layout=layout)
        output = gated_lip2d(*arguments, 12.0, 1e-5, *window)
        expected = formula(*arguments, window)
        with torch.no_grad():
            inferred = gated_lip2d(*arguments, 12.0, 1e-5, *window)
        assert_close([output, inferred], [expected, expected], 1e-12)
        assert_close(gradients(output, arguments), gradients(expected, arguments), 1e-11)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('by_axis', [False, True])
def test_windows_are_summed_alike_either_way(monkeypatch, by_axis, layout):
    """One way is the GPU's, the other that of contiguous maps on the CPU."""
    monkeypatch.setattr(tiles, '_sums_faster_by_axis', lambda planes: by_axis)
    monkeypatch.setattr(tiles, 'TILE_ELEMENTS', 100)
    for size, window in itertools.product(SIZES, WINDOWS):
        arguments = inputs((2, 3, *size), layout=layout)
        output = gated_lip2d(*arguments, 12.0, 1e-5, *window)
        assert_close([output], [formula(*arguments, window)], 1e-12)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('tile_elements', [1, 100, 1 << 18])
def test_instance_norm_equals_pytorchs(monkeypatch, relu, layout, tile_elements):
    monkeypatch.setattr(tiles, 'TILE_ELEMENTS', tile_elements)
    for size in SIZES:
        _, *arguments = inputs((2, 3, *size), layout=layout)
        output = instance_norm(*arguments, relu=relu)
        expected = F.instance_norm(arguments[0], weight=arguments[1], bias=arguments[2])
        expected = expected.relu() if relu else expected
        assert output.stride() == arguments[0].stride()
        assert_close([output], [expected], 1e-12)
        assert_close(gradients(output, arguments), gradients(expected, arguments), 1e-11)


def test_gradients_are_right_numerically():
    arguments = inputs((2, 2, 5, 4))
    assert gradcheck(gated_lip2d, arguments)
    assert gradcheck(instance_norm, arguments[1:])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('window', [(3, 2, 1), (2, 2, 0)])
def test_single_precision_equals_the_reference(window, layout):
    arguments = inputs((2, 8, 23, 31), torch.float32, layout)
    output = gated_lip2d(*arguments, 12.0, 1e-5, *window)
    reference = gated_lip2d_reference(*arguments, 12.0, 1e-5, *window)
    assert_close([output], [reference], 1e-5)
    assert_close(gradients(output, arguments), gradients(reference, arguments), 1e-5)
    norm, norm_reference = (
        f(*arguments[1:], relu=True) for f in (instance_norm, instance_norm_reference)
    )
    assert_close([norm], [norm_reference], 1e-5)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_half_precision_rounds_only_what_it_returns(dtype, tolerance, layout):
    arguments = inputs((2, 4, 9, 11), dtype, layout)
    output = gated_lip2d(*arguments)
    assert output.dtype == dtype
    exact = [t.detach().double().requires_grad_() for t in arguments]
    expected = formula(*exact, (3, 2, 1))
    assert_close([output], [expected], tolerance)
    grads = gradients(output, arguments)
    assert [g.dtype for g in grads] == [a.dtype for a in arguments]
    assert_close(grads, gradients(expected, exact), 2 * tolerance)


def test_dtypes_and_layouts_may_differ():
    """As they do under autocast, and where one branch of a network came in another format."""
    x, raw, weight, bias = inputs((2, 4, 9, 11), torch.float32)
    expected = gated_lip2d(x, raw, weight, bias)
    assert_close([gated_lip2d(x.contiguous(memory_format=LAST), raw, weight, bias)], [expected], 0)
    assert_close([gated_lip2d(x.bfloat16(), raw, weight, bias)], [expected], 1.5e-2)
    assert gated_lip2d(x.bfloat16(), raw, weight, bias).dtype == torch.bfloat16
    strided = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in (x, raw)]
    assert_close([gated_lip2d(*strided, weight, bias)], [expected], 0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_no_logit_overflows(dtype):
    """The gate wide open and shut in one window, in every dtype; and one that outgrows float32."""
    x, raw, weight, bias = inputs((1, 2, 8, 8), dtype)
    for scale, coefficient in ((1e3, 12.0), (1e3, 60.0), (1e3, 500.0), (0.0, 500.0)):
        affine = (weight * scale).detach().requires_grad_(), bias
        output = gated_lip2d(x, raw, *affine, coefficient)
        for tensor in (output, *gradients(output, (x, raw, *affine))):
            assert tensor.isfinite().all()


def test_a_mean_far_from_zero_costs_few_digits():
    x, raw, weight, bias = inputs((1, 4, 40, 40), torch.float32)
    raw = (raw.detach() + 1000).requires_grad_()
    expected = formula(x, raw, weight, bias, (3, 2, 1))
    for layout in LAYOUTS:
        moved = raw.contiguous(memory_format=layout)
        # A value near 1000 is itself known to 3e-5, and the gate makes up to six times that of it.
        assert_close([gated_lip2d(x, moved, weight, bias)], [expected], 2e-4)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('rows', [slice(None, None, 200), slice(100, None, 200), slice(0, 4)])
def test_a_few_rows_unlike_all_others_cost_no_digits(layout, rows):
    """Wherever they lie: statistics start from a guess at the mean that some rows give."""
    raw = torch.randn(1, 3, 800, 4, generator=torch.Generator().manual_seed(0))
    raw[:, :, rows] += 1000
    weight, bias = torch.ones(3), torch.zeros(3)
    exact = F.instance_norm(raw.double())
    result = instance_norm(raw.contiguous(memory_format=layout), weight, bias)
    # Of values up to 14.
    torch.testing.assert_close(result.double(), exact, rtol=5e-7, atol=5e-7)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('tile_elements', [20, 1 << 19])
def test_normalization_takes_the_memory_only_where_gradients_are_off(
    monkeypatch, tile_elements, layout, dtype
):
    monkeypatch.setattr(tiles, 'TILE_ELEMENTS', tile_elements)
    _, x, weight, bias = inputs((2, 3, 9, 8), dtype, layout)
    expected = instance_norm(x, weight, bias, relu=True)
    kept = x.detach().clone()
    exact = F.instance_norm(kept.double(), weight=weight.double(), bias=bias.double()).relu()
    assert_close([expected], [exact], 2e-6 if dtype == torch.float32 else 1e-2)
    output = instance_norm(x, weight, bias, relu=True, inplace=True)
    assert torch.equal(output, expected)
    assert output.requires_grad
    with torch.no_grad():
        output = instance_norm(x, weight, bias, relu=True, inplace=True)
        assert not output.requires_grad
        assert torch.equal(x, kept)
        output = instance_norm(x.detach(), weight, bias, relu=True, inplace=True)
    assert output.data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)


@needs_custom_operators
def test_in_place_is_for_values_at_hand_only():
    """Transforms, compilers and tensors without values get the operator that returns a new map."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    _, x, weight, bias = (t.detach() for t in inputs((2, 3, 9, 8)))
    expected, kept = instance_norm(x, weight, bias), x.clone()

    def normalize(x):
        return instance_norm(x, weight, bias, inplace=True)

    with torch.no_grad():
        mapped = torch.func.vmap(lambda image: normalize(image[None])[0])(x)
        compiled = torch.compile(normalize, backend='aot_eager', fullgraph=True)(x)
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(t) for t in (x, weight, bias)]
            assert instance_norm(*fake, inplace=True).shape == x.shape
    assert_close([mapped, compiled], [expected, expected], 1e-12)
    assert torch.equal(x, kept)
    with torch.inference_mode():
        made_there = x + 0
    with torch.no_grad():
        assert_close([normalize(made_there)], [expected], 0)


def test_shapes_are_known_without_values():
    arguments = [t.detach().to('meta') for t in inputs((2, 3, 9, 8))]
    assert instance_norm(*arguments[1:], inplace=True).shape == (2, 3, 9, 8)
    assert gated_lip2d(*arguments).shape == (2, 3, 5, 4)


def test_single_positions_normalize_to_the_shift():
    x, raw, weight, bias = inputs((2, 4, 1, 1), torch.float32)
    assert_close([gated_lip2d(x, raw, weight, bias)], [x], 1e-6)
    normalized = instance_norm(raw, weight, bias)
    torch.testing.assert_close(normalized, bias.view(1, 4, 1, 1).expand_as(raw))
    grad_raw, grad_weight, grad_bias = gradients(normalized, (raw, weight, bias))
    assert grad_raw.abs().max() == 0
    assert grad_weight.abs().max() == 0
    assert grad_bias.abs().min() > 0


def test_a_closed_gate_is_average_pooling():
    x, raw, weight, bias = inputs((1, 3, 9, 8), torch.float32)
    average = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    assert_close([gated_lip2d(x, raw, 0 * weight, bias)], [average], 1e-6)


def test_equals_lip2d_of_the_written_logit():
    x, raw, weight, bias = inputs((2, 3, 9, 8))
    logit = 12 * instance_norm(raw, weight, bias).sigmoid()
    assert_close([gated_lip2d(x, raw, weight, bias)], [lip2d(x, logit)], 1e-12)


def test_empty_batch():
    arguments = inputs((0, 4, 8, 8), torch.float32)
    output = gated_lip2d(*arguments)
    assert output.shape == (0, 4, 4, 4)
    assert all(g.abs().sum() == 0 for g in gradients(output, arguments))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_what_follows_may_overwrite_the_output_in_place(dtype):
    arguments = inputs((1, 2, 8, 8), dtype)
    expected = torch.autograd.grad(gated_lip2d(*arguments).relu().sum(), arguments)
    assert_close(torch.autograd.grad(gated_lip2d(*arguments).relu_().sum(), arguments), expected, 0)


@pytest.mark.parametrize('size', [(2, 3, 6, 7), (1, 2, 1, 5), (2, 1, 4, 4), (2, 3, 17, 31)])
def test_to_contiguous_changes_strides_alone(size):
    x = torch.randn(size, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
    output = to_contiguous(x)
    assert output.is_contiguous()
    assert torch.equal(output, x)
    weights = torch.randn(size, dtype=torch.float64)
    for grad in (weights, weights.contiguous(memory_format=LAST)):
        (result,) = torch.autograd.grad(output, x, grad, retain_graph=True)
        assert torch.equal(result, weights)
        assert result.is_contiguous(memory_format=LAST)


@needs_custom_operators
def test_to_contiguous_under_torch_func():
    x = torch.randn(2, 3, 17, 31).contiguous(memory_format=LAST)
    gradient = torch.func.grad(lambda x: to_contiguous(x).square().sum())(x)
    torch.testing.assert_close(gradient, 2 * x)
    assert torch.equal(torch.func.vmap(lambda image: to_contiguous(image[None])[0])(x), x)


# --- derivatives beyond one backward pass ---------------------------------------------------------


@pytest.mark.usefixtures('either_path')
@pytest.mark.parametrize('layout', LAYOUTS)
def test_second_derivatives_are_right_numerically(layout):
    arguments = inputs((1, 2, 4, 3), layout=layout)
    assert gradgradcheck(gated_lip2d, arguments)
    assert gradgradcheck(instance_norm, arguments[1:])
    assert gradgradcheck(lambda *a: instance_norm(*a, relu=True), arguments[1:])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_to_contiguous_has_second_derivatives(layout):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    assert gradgradcheck(to_contiguous, x)
    assert gradgradcheck(lambda x: to_contiguous(x).square(), x)


def orders(function, arguments, count):
    """Return the gradients, and those of the gradients' norm, as a gradient penalty has them."""
    penalty, results = function(*arguments).double().square().sum(), []
    for order in range(count):
        grads = torch.autograd.grad(penalty, arguments, create_graph=order + 1 < count)
        results += grads
        penalty = sum(g.double().square().sum() for g in grads).sqrt()
    return results


@pytest.mark.usefixtures('either_path')
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('window', WINDOWS)
def test_derivatives_of_all_orders_equal_the_formulas(window, layout):
    """Where the logit is computed from the map that it weighs, as in a network."""
    arguments = inputs((2, 3, 6, 7), layout=layout)

    def results(pool):
        return orders(lambda x, raw, *affine: pool(x, raw * x.sin(), *affine), arguments, 3)

    expected = results(lambda *a: formula(*a, window))
    assert_close(results(lambda *a: gated_lip2d(*a, 12.0, 1e-5, *window)), expected, 1e-11)


@pytest.mark.usefixtures('either_path')
def test_a_gradient_penalty_equals_the_references():
    """A penalty on the gradient at the input, which trains the parameters."""
    arguments = inputs((2, 4, 9, 11), torch.float32)
    results = []
    for norm, pool in (
        (instance_norm, gated_lip2d),
        (instance_norm_reference, gated_lip2d_reference),
    ):
        x, raw, weight, bias = (a.detach().clone().requires_grad_() for a in arguments)
        features = norm(x, weight, bias, relu=True)
        output = pool(features, raw * features, weight, bias)
        (grad,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        (grad.flatten(1).norm(dim=1) - 1).square().sum().backward()
        results.append([t.grad for t in (x, raw, weight, bias)])
    assert_close(*results, 1e-4)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 5e-2)]
)
@pytest.mark.parametrize('coefficient', [1.0, 12.0, 60.0, 80.0])
def test_second_derivatives_fit_any_dtype(coefficient, dtype, tolerance):
    """The square of a window's total, up to ``e^120``, would not, nor the squares in a variance."""
    arguments = inputs((2, 3, 6, 7), dtype, spread=300.0)
    exact = [t.detach().double().requires_grad_() for t in arguments]
    results = orders(lambda *a: gated_lip2d(*a, coefficient), arguments, 2)
    assert [r.dtype for r in results] == 2 * [a.dtype for a in arguments]
    expected = orders(lambda *a: formula(*a, (3, 2, 1), coefficient), exact, 2)
    assert_close(results, expected, tolerance)


@pytest.mark.parametrize('size', [(0, 3, 4, 4), (2, 3, 1, 1)])
def test_empty_batches_and_single_positions_have_second_derivatives(size):
    x, raw, weight, bias = inputs(size)
    (grad,) = torch.autograd.grad(
        gated_lip2d(x, raw, weight, bias).pow(3).sum(), x, create_graph=True
    )
    second = torch.autograd.grad(grad.sum(), (x, raw, weight, bias))
    assert_close(second, [6 * x, *map(torch.zeros_like, (raw, weight, bias))], 1e-12)


@pytest.mark.usefixtures('either_path')
@pytest.mark.parametrize('only', range(4))
def test_second_derivatives_of_only_some_inputs(only):
    arguments = [a.detach().requires_grad_(i == only) for i, a in enumerate(inputs((1, 3, 5, 4)))]

    def second(pool):
        output = pool(*arguments).square().sum()
        (grad,) = torch.autograd.grad(output, arguments[only], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), arguments[only])

    assert_close(second(gated_lip2d), second(lambda *a: formula(*a, (3, 2, 1))), 1e-11)


def test_checkpointing_keeps_second_derivatives():
    arguments = inputs((2, 3, 6, 7))
    expected = orders(gated_lip2d, arguments, 2)
    again = orders(lambda *a: checkpoint(gated_lip2d, *a, use_reentrant=False), arguments, 2)
    assert_close(again, expected, 1e-12)


@pytest.mark.usefixtures('either_path')
def test_forward_mode_carries_derivatives_along():
    arguments = [a.detach() for a in inputs((2, 3, 6, 7))]
    tangents = [torch.randn_like(a) for a in arguments]

    def results(pool, norm, to_contiguous):
        with forward_ad.dual_level(), torch.no_grad():
            x, *rest = (forward_ad.make_dual(*pair) for pair in zip(arguments, tangents))
            moved = to_contiguous(x.contiguous(memory_format=LAST))
            outputs = pool(x, *rest), norm(*rest), moved
            return [forward_ad.unpack_dual(output).tangent for output in outputs]

    assert_close(
        results(gated_lip2d, lambda *a: instance_norm(*a, relu=True, inplace=True), to_contiguous),
        results(
            lambda *a: formula(*a, (3, 2, 1)),
            lambda x, w, b: F.instance_norm(x, weight=w, bias=b).relu(),
            lambda x: x,
        ),
        1e-12,
    )


@needs_torch_func  # before, softmax's backward has no forward mode
@pytest.mark.usefixtures('either_path')
def test_forward_mode_through_a_backward_pass():
    """The tangent of a gradient, where only what comes in from behind carries one."""
    arguments = inputs((2, 3, 6, 7))
    outputs = gated_lip2d(*arguments), formula(*arguments, (3, 2, 1))
    grad, grad_tangent = (torch.randn_like(outputs[0]) for _ in range(2))
    results = []
    for output in outputs:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(grad, grad_tangent)
            grads = torch.autograd.grad(output, arguments, dual)
            results.append([forward_ad.unpack_dual(g).tangent for g in grads])
    assert_close(*results, 1e-11)


@needs_torch_func
@pytest.mark.usefixtures('either_path')
@pytest.mark.parametrize('outer', ['jacfwd', 'jacrev'])
@pytest.mark.parametrize('inner', ['jacfwd', 'jacrev'])
def test_hessians_by_torch_func(outer, inner):
    _, raw, weight, bias = (t.detach() for t in inputs((1, 2, 3, 4)))

    def hessian(pool):
        def loss(raw, weight):
            return pool(raw.sin(), raw, weight, bias).pow(3).sum()

        outer_transform, inner_transform = (getattr(torch.func, name) for name in (outer, inner))
        both = {'argnums': (0, 1)}
        rows = outer_transform(inner_transform(loss, **both), **both)(raw, weight)
        return [block for row in rows for block in row]

    assert_close(hessian(gated_lip2d), hessian(lambda *a: formula(*a, (3, 2, 1))), 1e-11)


@needs_torch_func
@pytest.mark.usefixtures('either_path')
def test_nested_transforms_by_torch_func():
    from torch.func import grad, jvp, vjp, vmap

    x, raw, weight, bias = inputs((2, 3, 6, 7))
    values = [t.detach() for t in (x, raw, weight, bias)]

    def results(pool):
        def loss(x, raw, weight, bias):
            return pool(x[None], raw[None], weight, bias).pow(3).sum()

        def norm_of_gradient(loss):
            return lambda *a: grad(loss)(*a).square().sum()

        def batch_loss(*a):
            return vmap(loss, (0, 0, None, None))(*a).square().sum()

        output, pull_back = vjp(pool, *values)
        thrice = grad(norm_of_gradient(norm_of_gradient(batch_loss)), (0, 1, 2, 3))
        yield from thrice(*values)
        yield from vmap(grad(norm_of_gradient(loss)), (0, 0, None, None))(*values)
        yield from jvp(batch_loss, tuple(values), tuple(v.cos() for v in values))
        yield from jvp(pull_back, (output,), (output.cos(),))[1]
        # Autograd outside of a transform, which does not know of it.
        arguments = x, raw, weight, bias
        yield from torch.autograd.grad(grad(batch_loss)(*arguments).square().sum(), arguments)
        (first,) = torch.autograd.grad(batch_loss(*arguments), x, create_graph=True)
        yield from torch.autograd.grad(first.square().sum(), arguments)

    assert_close(results(gated_lip2d), results(lambda *a: formula(*a, (3, 2, 1))), 1e-10)


def test_one_backward_pass_takes_the_fast_way(monkeypatch):
    class ComposedError(Exception):
        pass

    def compose(*_):
        raise ComposedError

    monkeypatch.setattr(operator.Operator, 'compose', compose)
    arguments = inputs((2, 3, 6, 7))
    output = instance_norm(gated_lip2d(*arguments), *arguments[2:])
    gradients(output, arguments)
    if HAS_CUSTOM_OPERATORS:
        from torch.func import grad, vmap

        def loss(x, raw):
            return gated_lip2d(x[None], raw[None], *arguments[2:]).sum()

        vmap(grad(loss))(*arguments[:2])
    for function, some in ((gated_lip2d, arguments), (instance_norm, arguments[1:])):
        with pytest.raises(ComposedError):
            orders(function, some, 2)


@needs_custom_operators
def test_compiles_derivatives_by_torch_func():
    x, raw, weight, bias = (t.detach() for t in inputs((2, 3, 6, 7)))

    def first(x):
        return torch.func.grad(lambda x: gated_lip2d(x, raw * x, weight, bias).pow(3).sum())(x)

    def second(x):
        return torch.func.grad(lambda x: first(x).square().sum())(x)

    for function in (first, second):
        compiled = torch.compile(function, backend='aot_eager', fullgraph=True)
        assert_close([compiled(x)], [function(x)], 1e-12)


# --- PyTorch's machinery --------------------------------------------------------------------------


@needs_custom_operators
@pytest.mark.parametrize('layout', LAYOUTS)
def test_operators_are_registered_as_pytorch_wants_them(layout):
    """Schema, fake tensors, autograd registration, and tracing with symbolic shapes."""
    x, raw, weight, bias = inputs((2, 3, 6, 7), torch.float32, layout)
    window = [3, 3], [2, 2], [1, 1]
    checks = (
        'test_schema',
        'test_autograd_registration',
        'test_faketensor',
        'test_aot_dispatch_dynamic',
    )
    for training in (True, False):
        arguments = (x, raw, weight, bias, 12.0, 1e-5, *window, training)
        if not training:
            arguments = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        torch.library.opcheck(torch.ops.lip_mmdet.gated_lip2d, arguments, test_utils=checks)
    arguments = (raw, weight, bias, 1e-5, True, True)
    torch.library.opcheck(torch.ops.lip_mmdet.instance_norm, arguments, test_utils=checks)


@needs_custom_operators
def test_compiles_in_one_graph_and_for_varying_shapes():
    compiled = torch.compile(gated_lip2d, fullgraph=True, dynamic=True, backend='aot_eager')
    for shape, layout in itertools.product([(2, 3, 9, 8), (2, 3, 12, 7)], LAYOUTS):
        arguments = inputs(shape, torch.float32, layout)
        output, expected = compiled(*arguments), gated_lip2d(*arguments)
        assert output.stride() == expected.stride()
        assert_close([output], [expected], 0)
        assert_close(gradients(output, arguments), gradients(expected, arguments), 0)


@needs_custom_operators
def test_gradients_of_each_image_by_torch_func():
    x, raw, weight, bias = (t.detach() for t in inputs((3, 4, 6, 7)))

    def loss(weight, bias, x, raw):
        return gated_lip2d(x[None], raw[None], weight, bias).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)), (None, None, 0, 0))(
        weight, bias, x, raw
    )
    for i in range(3):
        alone = [t.clone().requires_grad_() for t in (weight, bias, x[i], raw[i])]
        expected = torch.autograd.grad(loss(*alone), alone)
        assert_close([g[i] for g in grads], expected, 1e-10)


def test_checkpointing_changes_no_number():
    arguments = inputs((2, 3, 9, 8))
    expected = gradients(gated_lip2d(*arguments), arguments)
    again = gradients(checkpoint(gated_lip2d, *arguments, use_reentrant=False), arguments)
    assert_close(again, expected, 0)


def test_autocast_leaves_dtypes_alone():
    x, raw, weight, bias = inputs((2, 3, 9, 8), torch.bfloat16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = gated_lip2d(x, raw, weight, bias)
    assert output.dtype == torch.bfloat16
    assert_close([output], [gated_lip2d(x, raw, weight, bias)], 0)


def test_only_some_inputs_need_gradients():
    """A frozen stem's map, or frozen parameters."""
    arguments = inputs((1, 3, 8, 8))
    expected = gradients(gated_lip2d(*arguments), arguments)
    for only in range(4):
        some = [a.detach().requires_grad_(i == only) for i, a in enumerate(arguments)]
        assert_close(gradients(gated_lip2d(*some), [some[only]]), [expected[only]], 0)


def test_tracing_writes_standard_operators():
    arguments = [t.detach() for t in inputs((2, 3, 9, 8), torch.float32)]
    traced = torch.jit.trace(lambda *a: instance_norm(gated_lip2d(*a), *a[2:]), tuple(arguments))
    assert 'lip_mmdet::' not in str(traced.inlined_graph)
    expected = instance_norm(gated_lip2d(*arguments), *arguments[2:])
    assert_close([traced(*arguments)], [expected], 1e-5)


@pytest.mark.skipif(
    not hasattr(getattr(torch, 'compiler', None), 'is_exporting'), reason='needs torch >= 2.7'
)
def test_exporting_writes_standard_operators():
    class Net(torch.nn.Module):
        def forward(self, x, raw, weight, bias):
            return instance_norm(gated_lip2d(x, raw, weight, bias), weight, bias, inplace=True)

    arguments = tuple(t.detach() for t in inputs((2, 3, 9, 8), torch.float32))
    program = torch.export.export(Net(), arguments)
    assert 'aten.avg_pool2d' in str(program.graph)
    assert 'lip_mmdet' not in str(program.graph)
    assert_close([program.module()(*arguments)], [Net()(*arguments)], 1e-5)


def test_without_custom_operators(monkeypatch):
    """The autograd function of older torch gives the same."""
    arguments = inputs((2, 3, 9, 8))
    expected = gated_lip2d(*arguments)
    monkeypatch.setattr(operator, 'HAS_CUSTOM_OPERATORS', False)
    output = gated_lip2d(*arguments)
    assert_close([output], [expected], 0)
    assert_close(gradients(output, arguments), gradients(expected, arguments), 0)
    with torch.no_grad():
        assert_close([gated_lip2d(*arguments)], [expected], 0)


def run_with_triton(module, **environment):
    """Run a module's ``main`` in a process of its own, for Triton decides on import how it runs."""
    if not kernels.has_triton():
        pytest.skip('needs Triton 3.3')
    path = os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path])
    command = [sys.executable, '-c', f'import {module}; {module}.main()']
    environment = dict(os.environ, PYTHONPATH=path, **environment)
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


def test_gpu_kernels_equal_the_formula_in_tritons_interpreter():
    run_with_triton('triton_in_interpreter', TRITON_INTERPRET='1')


def test_gpu_kernels_compile(tmp_path):
    run_with_triton('triton_compiles', TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float16, 4e-3)])
@pytest.mark.parametrize('wanted', ['0', '1'])
def test_gpu_equals_cpu(monkeypatch, wanted, dtype, tolerance, layout):
    monkeypatch.setenv('LIP_MMDET_TRITON', wanted)
    arguments = inputs((2, 8, 23, 31), dtype, layout)
    moved = [a.detach().cuda().requires_grad_() for a in arguments]
    output, expected = gated_lip2d(*moved), gated_lip2d(*arguments)
    assert_close([output.cpu()], [expected], tolerance)
    grads = gradients(output.cpu(), moved)
    assert_close([g.cpu() for g in grads], gradients(expected, arguments), tolerance)


def test_operators_need_torch_alone():
    code = (
        'import sys\n'
        'for name in ("mmdet", "mmcv", "mmengine", "triton"): sys.modules[name] = None\n'
        'import torch\n'
        'from lip_mmdet.ops import gated_lip2d\n'
        'x = torch.rand(1, 2, 4, 4)\n'
        'print(gated_lip2d(x, x, torch.ones(2), torch.zeros(2)).shape)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda x, w: gated_lip2d(x[0], x[0], w, w), r'\(4, 8, 8\)'),
        (lambda x, w: gated_lip2d(x, x[:, :2], w, w), r'\(2, 2, 8, 8\)'),
        (lambda x, w: gated_lip2d(x, x, w[:2], w), r'\(2,\) and \(4,\) for \(2, 4, 8, 8\)'),
        (lambda x, w: gated_lip2d(x, x, w, w, coefficient=0), 'positive coefficient, not 0'),
        (lambda x, w: gated_lip2d(x, x, w, w, kernel_size=0), 'kernel_size .* not 0'),
        (lambda x, w: gated_lip2d(x, x, w, w, kernel_size=11), r'kernel_size \(11, 11\)'),
        (lambda x, w: gated_lip2d(x.int(), x, w, w), 'torch.int32'),
        (lambda x, w: instance_norm(x, w, w[:1]), r'\(4,\) and \(1,\) for \(2, 4, 8, 8\)'),
        (lambda x, w: instance_norm(x.int(), w, w), 'torch.int32'),
    ],
)
def test_bad_arguments_name_the_offending_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 4, 8, 8), torch.ones(4))
