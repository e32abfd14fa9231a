"""What makes a pair of functions, forward and backward, an operator of PyTorch.

With torch >= 2.4 it is registered as a custom operator, which ``torch.compile``, ``torch.func`` and
checkpointing see as one opaque node with known shapes; before, it is an autograd function. It has
no autocast rule because it needs none: each input may have its own dtype, and arithmetic inside is
in float32 or wider.

Forward and one backward pass are written for speed, out of autograd's sight. All that goes further,
second derivatives and forward mode, PyTorch takes of a composition of its own operators that
computes the same. What forward keeps for backward is a function of the inputs, so that the
composition of the inputs has every derivative there is.
"""

from __future__ import annotations

import functools
from typing import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

NAMESPACE = 'lip_mmdet'
HAS_CUSTOM_OPERATORS = hasattr(torch.library, 'custom_op')


def exporting() -> bool:
    """Whether the program is being written down for another runtime, which has no such operator."""
    is_exporting = getattr(getattr(torch, 'compiler', None), 'is_exporting', lambda: False)
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or is_exporting()


def compiling() -> bool:
    """Whether ``torch.compile`` reads the program."""
    return getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)()


def may_overwrite(x: Tensor) -> bool:
    """Whether a tensor that the caller has no more use for may take the result of an operator.

    So it is where gradients are off and operators run here and now, on values.
    """
    if compiling() or inside_torch_func() or carrying_tangents():
        return False
    if torch.is_grad_enabled() or x.requires_grad:
        return False
    # What inference mode made can only be changed within it.
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return False
    # Subclasses and the meta device stand for tensors without values.
    return type(x) is Tensor and not x.is_meta


class Operator:
    """A differentiable operator on tensors whose second dimension (or only one) is the channel.

    Args:
        name: in the namespace ``lip_mmdet``.
        tensors: names of its tensor arguments.
        options: its other arguments, as PyTorch's schemas have them: ``'float eps'``.
        kept: names of what forward hands to backward beside the arguments.
        forward: ``(*tensors, options, training) -> (output, *kept)``; what is kept is empty unless
            training.
        backward: ``(grad_output, *tensors, *kept, options) -> gradients``, one for each tensor.
        allocate: ``(*tensors, options, training) -> (output, *kept)``, without values.
        composition: ``(*tensors, *options) -> output`` of PyTorch's operators, for tensors of one
            dtype, float32 or float64.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: tuple[str, ...],
        options: tuple[str, ...],
        kept: tuple[str, ...],
        forward: Callable,
        backward: Callable,
        allocate: Callable,
        composition: Callable,
    ) -> None:
        self.forward = forward
        self.backward = backward
        self.allocate = allocate
        self.composition = composition
        self.tensor_count = len(tensors)
        if not HAS_CUSTOM_OPERATORS:
            return
        inputs, given, handed = _schema(tensors), ', '.join(options), _schema(kept)
        self._backward_op = torch.library.custom_op(
            f'{NAMESPACE}::{name}_backward',
            self._run_backward,
            mutates_args=(),
            schema=f'(Tensor grad_output, {inputs}, {handed}, {given}) -> ({_schema(tensors, "")})',
        )
        self._backward_op.register_fake(self._fake_backward)
        self._forward_op = torch.library.custom_op(
            f'{NAMESPACE}::{name}',
            self._run_forward,
            mutates_args=(),
            schema=f'({inputs}, {given}, bool training) -> (Tensor, {_schema(kept, "")})',
        )
        self._forward_op.register_fake(self._fake_forward)
        self._forward_op.register_autograd(self._chain, setup_context=self._set_up)
        if hasattr(torch.library, 'register_vmap'):
            self._forward_op.register_vmap(_over_channels(self._forward_op))
            self._backward_op.register_vmap(_over_channels(self._backward_op))

    def __call__(self, tensors: tuple[Tensor, ...], options: tuple) -> Tensor:
        """Run the operator; keep what backward needs where a gradient will be asked for."""
        transformed = inside_torch_func()
        # The compiler does not follow a transform into the backward of a function's backward.
        opaque = HAS_CUSTOM_OPERATORS and not compiling()
        if carrying_tangents() or (transformed and not opaque):
            return self.compose(options, *tensors)
        # Beneath the innermost transform a tensor may require a gradient and not tell.
        wanted = transformed or any(t.requires_grad for t in tensors)
        training = torch.is_grad_enabled() and wanted
        if transformed:
            return _TransformedFunction.apply(self, options, training, *tensors)[0]
        if HAS_CUSTOM_OPERATORS:
            return self._forward_op(*tensors, *options, training)[0]
        if training:
            return _Function.apply(self, options, *tensors)
        return self.forward(*tensors, options, False)[0]

    def compose(self, options: tuple, *tensors: Tensor) -> Tensor:
        """Run the composition, in the dtype of the operator's arithmetic."""
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
        output = self.composition(*(t.to(dtype) for t in tensors), *options)
        return output.to(tensors[0].dtype)

    def derive(self, options: tuple, grad_output: Tensor, *saved: Tensor) -> tuple:
        """Run backward so that autograd can go on from the gradients."""
        compose = functools.partial(self.compose, options)
        return derive(compose, saved[: self.tensor_count], grad_output)

    def transform(self, options: tuple, grad_output: Tensor, *saved: Tensor) -> tuple:
        """Run backward so that ``torch.func`` can go on from the gradients."""
        compose = functools.partial(self.compose, options)
        _, pull_back = torch.func.vjp(compose, *saved[: self.tensor_count])
        return pull_back(grad_output)

    def _split(self, arguments: tuple) -> tuple[tuple, tuple]:
        return arguments[: self.tensor_count], arguments[self.tensor_count :]

    def _run_forward(self, *arguments) -> tuple:
        tensors, (*options, training) = self._split(arguments)
        return self.forward(*tensors, tuple(options), training)

    def _fake_forward(self, *arguments) -> tuple:
        tensors, (*options, training) = self._split(arguments)
        return self.allocate(*tensors, tuple(options), training)

    def _run_backward(self, *arguments) -> tuple:
        count = sum(isinstance(a, Tensor) for a in arguments)
        return self.backward(*arguments[:count], tuple(arguments[count:]))

    def _fake_backward(self, grad_output: Tensor, *arguments) -> tuple:
        return tuple(torch.empty_like(t) for t in self._split(arguments)[0])

    def _set_up(self, ctx, inputs: tuple, output: tuple) -> None:
        tensors, (*options, _) = self._split(inputs)
        ctx.options = options
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.set_materialize_grads(False)

    def _chain(self, ctx, grad_output: Tensor | None, *_) -> tuple:
        rest = (None,) * (len(ctx.options) + 1)
        if grad_output is None:
            return (None,) * self.tensor_count + rest
        if differentiating_backward():
            grads = self.derive(ctx.options, grad_output, *ctx.saved_tensors)
        else:
            grads = self._backward_op(grad_output, *ctx.saved_tensors, *ctx.options)
        return (*grads, *rest)


class _Function(torch.autograd.Function):
    """The operator for torch before 2.4."""

    @staticmethod
    def forward(ctx, operator: Operator, options: tuple, *tensors: Tensor) -> Tensor:
        output, *kept = operator.forward(*tensors, options, True)
        ctx.operator = operator
        ctx.options = options
        ctx.save_for_backward(*tensors, *kept)
        return output

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple:
        operator, options = ctx.operator, ctx.options
        if differentiating_backward():
            grads = operator.derive(options, grad_output, *ctx.saved_tensors)
        else:
            grads = operator.backward(grad_output, *ctx.saved_tensors, options)
        return (None, None, *grads)


class _TransformedFunction(torch.autograd.Function):
    """The operator under ``torch.func``, which does not take a custom operator's autograd formula.

    The transforms want forward and what it keeps apart. Each of the two passes is the custom
    operator still, whose vmap rule they use. They prepare for a second derivative always, which is
    why backward is a function of its own, with a composition for its derivative alone.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: Operator, options: tuple, training: bool, *tensors: Tensor) -> tuple:
        return operator._forward_op(*tensors, *options, training)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.operator, ctx.options, _, *tensors = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx, grad_output: Tensor, *_) -> tuple:
        operator, options = ctx.operator, ctx.options
        if carrying_tangents():
            grads = operator.transform(options, grad_output, *ctx.saved_tensors)
        else:
            grads = _TransformedBackward.apply(operator, options, grad_output, *ctx.saved_tensors)
        return (None, None, None, *grads)


class _TransformedBackward(torch.autograd.Function):
    """Backward of :class:`_TransformedFunction`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: Operator, options: tuple, grad_output: Tensor, *saved: Tensor) -> tuple:
        return operator._backward_op(grad_output, *saved, *options)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.operator, ctx.options, grad_output, *saved = inputs
        tensors, kept = ctx.operator._split(saved)
        ctx.kept_count = len(kept)
        ctx.save_for_backward(grad_output, *tensors)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple:
        transform = functools.partial(ctx.operator.transform, ctx.options)
        _, pull_back = torch.func.vjp(transform, *ctx.saved_tensors)
        return (None, None, *pull_back(grads), *(None,) * ctx.kept_count)


def derive(function: Callable, tensors: Sequence[Tensor], grad_output: Tensor) -> tuple:
    """Return the gradients of a function, None for a tensor without; autograd can go on from them.

    Args:
        function: ``(*tensors) -> output``, which autograd sees through.
        tensors: its arguments, where at least one requires a gradient.
        grad_output: gradient of its output.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # One argument may be computed from another, as a logit is from the map that it weighs. An
        # alias has its own share of the gradient alone and still leads on to what it is made of.
        aliases = [t.view_as(t) for t in tensors]
        output = function(*aliases)
    wanted = [alias for alias in aliases if alias.requires_grad]
    grads = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=further))
    return tuple(next(grads) if alias.requires_grad else None for alias in aliases)


def differentiating_backward() -> bool:
    """Whether the backward pass that runs now may be differentiated in turn."""
    return torch.is_grad_enabled() or carrying_tangents()


def carrying_tangents() -> bool:
    """Whether forward mode is at work: dual tensors, or one of ``torch.func``'s ``jvp``."""
    return getattr(forward_ad, '_current_level', -1) >= 0


def inside_torch_func() -> bool:
    """Whether one of ``torch.func``'s transforms is at work."""
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    return active is not None and active()


def _schema(names: tuple[str, ...], suffix: str = ' ') -> str:
    return ', '.join(f'Tensor{suffix}{name if suffix else ""}' for name in names)


def _over_channels(op: Callable) -> Callable:
    """Map an operator over a dimension by laying it beside the channels.

    Every figure of these operators belongs to one channel of one image, so that more channels are
    as good as more calls.
    """

    def run(info, in_dims: tuple, *arguments) -> tuple:
        size = info.batch_size
        folded = [_fold(a, d, size) for a, d in zip(arguments, in_dims)]
        outputs = tuple(_unfold(output, size) for output in op(*folded))
        return outputs, tuple(min(output.dim() - 2, 1) for output in outputs)

    return run


def _fold(value, dim: int | None, size: int):
    if not isinstance(value, Tensor):
        return value
    channel = min(value.dim() - (dim is not None) - 1, 1)
    if dim is None:
        shape = list(value.shape)
        value = value.unsqueeze(channel).expand(*shape[:channel], size, *shape[channel:])
    else:
        value = value.movedim(dim, channel)
    return value.flatten(channel, channel + 1)


def _unfold(value: Tensor, size: int) -> Tensor:
    channel = min(value.dim() - 1, 1)
    return value.unflatten(channel, (size, value.shape[channel] // size))
