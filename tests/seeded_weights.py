"""Weights and inputs that depend on names alone, so that no test has to store a network.

Each tensor is drawn from ``RandomState(crc32(name))``. The figures in ``tests/data`` were computed
with the authors' own networks on exactly these tensors.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'


def load_reference(name):
    """Read a network's reference: shapes of its official state dict, outputs, gradient norms."""
    return json.loads((DATA / f'{name}.json').read_text())


def seeded_state_dict(shapes):
    return {name: _seeded_tensor(name, shape) for name, shape in shapes.items()}


def seeded_image(shape, seed=0):
    noise = np.random.RandomState(seed).standard_normal(size=shape)
    return torch.from_numpy(noise.astype(np.float32))


def _seeded_tensor(name, shape):
    if name.endswith('num_batches_tracked'):
        return torch.zeros((), dtype=torch.int64)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=tuple(shape))
    if name.endswith('running_var'):
        value = 1 + 0.1 * np.abs(noise)
    elif name.endswith('running_mean'):
        value = 0.1 * noise
    elif len(shape) >= 2:
        value = noise * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith('bn3.weight'):  # ends a residual branch
        value = 0.25 * (1 + 0.1 * noise)
    elif name.endswith('weight'):
        value = 1 + 0.1 * noise
    else:
        value = 0.1 * noise
    return torch.from_numpy(value.astype(np.float32))


def samples(tensor, count):
    """Pick the evenly spaced values that the reference files keep of an output."""
    flat = tensor.detach().flatten()
    return flat[torch.linspace(0, flat.numel() - 1, count).long()]
