"""The fused operators against their formulas in float64, and within PyTorch's machinery."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from lip_mmdet.layers.implementation import COMPOSED, FUSED, compiled_operators, has_compiler
from lip_mmdet.ops import formula as composed
from lip_mmdet.ops import gated_lip2d, instance_norm, lip2d, tiles, to_contiguous

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
    reference = composed.gated_lip2d(*arguments, 12.0, 1e-5, *window)
    assert_close([output], [reference], 1e-5)
    assert_close(gradients(output, arguments), gradients(reference, arguments), 1e-5)
    norm, norm_reference = (
        f(*arguments[1:], relu=True) for f in (instance_norm, composed.instance_norm)
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


def test_shapes_are_known_without_values():
    arguments = [t.detach().to('meta') for t in inputs((2, 3, 9, 8))]
    assert instance_norm(*arguments[1:]).shape == (2, 3, 9, 8)
    assert gated_lip2d(*arguments).shape == (2, 3, 5, 4)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_only_the_cpu_cuts_maps_into_tiles(monkeypatch, layout):
    """A GPU takes ten times as long by tiles; a tensor without values stands for it."""
    monkeypatch.setattr(tiles, 'TILE_ELEMENTS', 1)
    x = torch.rand(2, 3, 9, 8).contiguous(memory_format=layout)
    assert len(list(tiles.tiles(x, 5, 2))) > 2
    assert list(tiles.tiles(x.to('meta'), 5, 2)) == [(n, (0, 3), (0, 5)) for n in range(2)]


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


# --- the composition, and PyTorch's machinery -----------------------------------------------------


def test_a_second_derivative_names_the_implementation_that_has_it():
    arguments = inputs((1, 2, 4, 3))
    for function, some in (
        (gated_lip2d, arguments),
        (instance_norm, arguments[1:]),
        (lip2d, arguments[:2]),
    ):
        with pytest.raises(RuntimeError, match="implementation='composed'") as error:
            torch.autograd.grad(function(*some).sum(), some, create_graph=True)
        assert '\n' not in str(error.value)
    assert gradgradcheck(composed.gated_lip2d, arguments)
    assert gradgradcheck(composed.instance_norm, arguments[1:])
    assert gradgradcheck(composed.lip2d, arguments[:2])


@pytest.mark.parametrize('window', WINDOWS)
def test_ungated_composition_equals_the_operator(window):
    x, raw, *_ = inputs((2, 3, 7, 8))
    output, expected = composed.lip2d(x, 4 * raw, *window), lip2d(x, 4 * raw, *window)
    assert_close([output], [expected], 1e-12)
    assert_close(gradients(output, (x, raw)), gradients(expected, (x, raw)), 1e-11)


def test_what_is_kept_for_backward_are_two_maps_and_two_statistics():
    arguments, kept = inputs((2, 3, 8, 8)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated_lip2d(*arguments)
    pointers = {a.data_ptr() for a in arguments}
    assert sum(t.numel() for t in kept if t.data_ptr() not in pointers) == 2 * 2 * 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch, 'compile'), reason='needs torch >= 2.0')
def test_compiled_graphs_run_and_equal_the_composition():
    if not has_compiler('cpu'):
        pytest.skip('needs a C++ compiler')
    from torch._dynamo.utils import counters

    counters.clear()
    # More numbers of channels than the compiler makes graphs for before it gives up.
    for channels in range(2, 13):
        x, raw, *affine = inputs((2 + channels % 2, channels, 9 + channels, 8), torch.float32)
        arguments = [x, raw, *map(torch.nn.Parameter, affine)]
        for name in ('gated_lip2d', 'instance_norm', 'lip2d'):
            some = {'instance_norm': arguments[1:], 'lip2d': arguments[:2]}.get(name, arguments)
            output = getattr(compiled_operators(), name)(*some)
            expected = getattr(COMPOSED, name)(*some)
            assert_close([output], [expected], 1e-5)
            assert_close(gradients(output, some), gradients(expected, some), 1e-5)
    assert not counters['graph_break']
    assert 3 <= counters['stats']['unique_graphs'] <= 9
    assert counters['aot_autograd']['ok'] >= 3
    assert not counters['recompile_limit'], counters


@pytest.mark.gpu
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_all_implementations_agree_on_a_gpu(layout, amp):
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    arguments = inputs((2, 8, 23, 31), torch.float16 if amp else torch.float32, layout)
    moved = [a.detach().cuda().requires_grad_() for a in arguments]
    exact = [a.detach().double().requires_grad_() for a in arguments]
    expected, tolerance = formula(*exact, (3, 2, 1)), 1e-2 if amp else 1e-4
    expected_grads = gradients(expected, exact)
    for operators in (FUSED, COMPOSED, compiled_operators()):
        with torch.autocast('cuda', enabled=amp):
            output = operators.gated_lip2d(*moved)
        assert_close([output.cpu()], [expected], tolerance)
        grads = [g.cpu() for g in gradients(output.cpu(), moved)]
        assert_close(grads, expected_grads, 2 * tolerance)


def test_padded_pooling_off_the_cpu_sees_contiguous_maps():
    """There PyTorch's gradient is wrong in channels_last; a tensor without values stands for it."""
    x, raw, *affine = (t.detach().to('meta') for t in inputs((2, 3, 9, 8), layout=LAST))
    assert composed.gated_lip2d(x, raw, *affine).is_contiguous()


@pytest.mark.skipif(
    not hasattr(getattr(torch, 'compiler', None), 'is_exporting'), reason='needs torch >= 2.7'
)
@pytest.mark.parametrize('gated', [True, False])
def test_exports_standard_operators_with_a_dynamic_height(gated):
    class Net(torch.nn.Module):
        def forward(self, x, raw, weight, bias):
            raw = instance_norm(raw, weight, bias)
            return gated_lip2d(x, raw, weight, bias) if gated else lip2d(x, raw)

    arguments = tuple(t.detach() for t in inputs((2, 3, 9, 8), torch.float32))
    height = {2: torch.export.Dim('height', min=4, max=4096)}
    program = torch.export.export(
        Net(), arguments, dynamic_shapes=dict(x=height, raw=height, weight=None, bias=None)
    )
    assert 'lip_mmdet' not in str(program.graph)
    for size in ((2, 3, 9, 8), (2, 3, 30, 8)):
        arguments = tuple(t.detach() for t in inputs(size, torch.float32))
        assert_close([program.module()(*arguments)], [Net()(*arguments)], 1e-5)


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
