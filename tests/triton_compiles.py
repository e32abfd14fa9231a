"""Compile the GPU's kernels for GPUs that this machine may not have.

Triton's interpreter runs Python: it takes programs that the compiler refuses. Here each launch is
recorded with the types of its arguments and compiled to machine code, and nothing runs.
"""

import itertools

import torch
import triton
from test_gated_lip2d import LAYOUTS, inputs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lip_mmdet.ops import (
    gated_lip2d,
    instance_norm,
    kernels,
    triton_gated_lip,
    triton_instance_norm,
)
from lip_mmdet.ops.triton_blocks import SIZES

TYPES = {
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
    torch.float32: '*fp32',
    torch.float64: '*fp64',
}
CAPABILITIES = [80, 90]


class Recorder:
    """Stands for a kernel; notes what would have to be compiled for each launch."""

    def __init__(self, kernel, launches):
        self.kernel = kernel
        self.launches = launches

    def __getitem__(self, grid):
        assert all(count > 0 for count in grid)
        return self.note

    def note(self, *arguments, num_warps=4, **options):
        names = self.kernel.arg_names
        signature, constants, attributes = {}, {}, {}
        for index, (name, value) in enumerate({**dict(zip(names, arguments)), **options}.items()):
            if isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
                aligned = value.data_ptr() % 16 == 0
            elif name in options or (name not in SIZES and value == 1):
                signature[name], constants[index,] = 'constexpr', value
                aligned = False
            else:
                signature[name] = 'i32'
                aligned = name not in SIZES and value % 16 == 0
            if aligned:
                attributes[index,] = [['tt.divisibility', 16]]
        key = repr((self.kernel.__name__, signature, constants, attributes, num_warps))
        self.launches[key] = self.kernel, signature, constants, attributes, num_warps


def record(launches):
    kernels.has_kernels = lambda x: True
    for module in (triton_instance_norm, triton_gated_lip):
        for name, kernel in list(vars(module).items()):
            if name.endswith('_kernel'):
                setattr(module, name, Recorder(kernel, launches))


def launch(shape, dtype, layout, window=(3, 2, 1), other=None):
    arguments = inputs(shape, dtype, layout)
    arguments[0] = arguments[0].to(other or dtype)
    gated_lip2d(*arguments, 12.0, 1e-5, *window).sum().backward()
    with torch.no_grad():
        gated_lip2d(*arguments, 12.0, 1e-5, *window)
    instance_norm(*arguments[1:], relu=True).sum().backward()


def main():
    launches = {}
    record(launches)
    for dtype, layout in itertools.product([torch.float32, torch.bfloat16], LAYOUTS):
        launch((2, 64, 17, 23), dtype, layout)
        count = len(launches)
        launch((1, 64, 32, 48), dtype, layout)
        launch((3, 64, 1, 9), dtype, layout)
        assert len(launches) == count, 'images of another shape must compile nothing anew'
    launch((2, 6, 17, 23), torch.float16, LAYOUTS[1])
    launch((2, 6, 17, 23), torch.float64, LAYOUTS[1])
    for dtype, other in [(torch.float32, torch.bfloat16), (torch.float32, torch.float64)]:
        launch((2, 6, 17, 23), dtype, LAYOUTS[1], other=other)
    for window in [(3, 1, 1), (2, 2, 0), (2, 3, 1), ((3, 2), (2, 1), (1, 0))]:
        launch((2, 6, 17, 23), torch.float32, LAYOUTS[0], window)
    for kernel, signature, constants, attributes, num_warps in launches.values():
        for capability in CAPABILITIES:
            source = ASTSource(kernel, signature, constants, attributes)
            target = GPUTarget('cuda', capability, 32)
            compiled = triton.compile(source, target=target, options=dict(num_warps=num_warps))
            assert compiled.asm['cubin']
    print(len(launches), 'kernels')
