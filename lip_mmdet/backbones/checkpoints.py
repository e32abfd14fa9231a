"""The state dicts that a backbone accepts, turned into its own before PyTorch compares names.

Three things meet here. Released files come in wrappings (a ``state_dict`` entry, a ``module.``
prefix, a classifier). Their names are not ours: :class:`OfficialNames`. And the weights of a plain
network, without LIP, SGE or deformable convolutions, fit in part: a *warm start*, which begins as
near to that network as ours can be. SGE and modulated deformable convolutions begin as exactly that
network, LIP in place of average pooling too. In place of max pooling LIP begins close to it. A 1x1
convolution after LIP begins with the sum of the taps of the strided 3x3 that stood there, and the
norm behind it lets little of that through at first, for it is a poor stand-in until it has learned.
"""

from __future__ import annotations

import importlib.util
import logging
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Iterator, Mapping, NamedTuple

import mmengine
import numpy as np
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers import SGE, LIPPool2d

# What a network may have that the one it starts from has not, by a part of its tensors' names.
ADDED_PARTS = {
    'LIP': ('.logit.', '.logit_trunk.', '.residual_logit.', '.shortcut_logit.'),
    'deformable convolution': ('.conv_offset.',),
    'SGE': ('.sge',),
}

# A 1x1 convolution that stands for a 3x3 is scaled by this at first, and with it the mean that the
# norm behind it knows. By docs/warm_start.md the less the better before training; 0 would stop the
# norm's gradient. The same in the norm's weight would take an optimizer longer to undo.
MUTED = 0.1


class OfficialNames(NamedTuple):
    """How the authors' code names what this package names otherwise.

    Attributes:
        classifier: the module that turns features into ImageNet scores; a backbone has none.
        rules: official part of a name -> our part. Each applies, in this order, at the start of a
            component of the name.
        older: part of a name in older official files -> in newer ones.
    """

    classifier: str
    rules: Mapping[str, str]
    older: Mapping[str, str] = MappingProxyType({})

    def to_ours(self, name: str) -> str:
        """Rename one key of an official state dict; other names stay."""
        for old, new in (*self.older.items(), *self.rules.items()):
            name = _rename(name, old, new)
        return name

    def to_official(self, name: str) -> str:
        """Rename one of our keys to its official name."""
        for official, ours in reversed(tuple(self.rules.items())):
            name = _rename(name, ours, official)
        return name


def prepare_state_dict(
    module: nn.Module, state_dict: dict[str, Tensor], prefix: str, names: OfficialNames
) -> None:
    """Rewrite ``state_dict`` in place so that it fits ``module``; called while it loads.

    Args:
        module: the backbone that is about to load.
        state_dict: what was given to ``load_state_dict``.
        prefix: the backbone's place in it, such as ``'backbone.'``.
        names: the official names of this kind of backbone.
    """
    if not prefix:
        _unwrap(state_dict)
    for key in [k for k in state_dict if k.startswith(prefix)]:
        name = key[len(prefix) :]
        value = state_dict.pop(key)
        if name.split('.')[0] != names.classifier:
            value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            state_dict[prefix + names.to_ours(name)] = value
    _warm_start(module, state_dict, prefix)


def _pretrained(module: nn.Module) -> list[dict]:
    configs = module.init_cfg if isinstance(module.init_cfg, (list, tuple)) else [module.init_cfg]
    return [config for config in configs if config and config.get('checkpoint')]


@contextmanager
def checkpoint_must_fit(module: nn.Module) -> Iterator[list[bool]]:
    """Refuse a checkpoint of a backbone's ``init_cfg`` that has nothing for it.

    MMEngine warns of each name that it misses, and goes on with random weights.

    Args:
        module: the backbone, whose ``init_weights`` runs in the block.

    Yields:
        What is filled while it runs: for each checkpoint whether it has a tensor that fits.

    Raises:
        InputError: no tensor of the checkpoint fits; the message tells the prefix that it has them
            under, if it has.
    """
    fitting = []

    def look(state_dict: dict, prefix: str, *_: Any) -> None:
        own = [(prefix + name, value.shape) for name, value in module.state_dict().items()]
        fitting.append(any(s and getattr(state_dict.get(k), 'shape', None) == s for k, s in own))

    handle = module._register_load_state_dict_pre_hook(look)
    try:
        yield fitting
    except AssertionError as error:  # MMEngine's where nothing has the prefix
        if 'not in the pretrained model' not in str(error):
            raise
        fitting.append(False)
    finally:
        handle.remove()
    if False in fitting:
        raise InputError(_of_another_network(module))


def _of_another_network(module: nn.Module) -> str:
    # DetectoRS keeps the path to itself.
    paths = [config['checkpoint'] for config in _pretrained(module)]
    path = paths[-1] if paths else module.pretrained
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    content = content.get('state_dict', content)
    last = '.' + [name for name, value in module.state_dict().items() if value.dim()][-1]
    prefixes = [repr(name[: 1 - len(last)]) for name in content if name.endswith(last)]
    message = f'{path} has no weights that fit {type(module).__name__}'
    if prefixes:
        return f'{message}; set init_cfg.prefix to {" or ".join(prefixes)}, where it has some'
    names = ', '.join(list(content)[:3])
    return f'{message}: ' + (f'its entries begin with {names}' if names else 'it is empty')


def check_pretrained(module: nn.Module) -> None:
    """Check that what a backbone's ``init_cfg`` starts from can be had.

    Args:
        module: a :class:`~lip_mmdet.backbones.base.WarmStartBackbone`.

    Raises:
        InputError: a local file is not there, and the message names the other two ways to start;
            or it is torchvision's and torchvision is not installed.
    """
    for config in _pretrained(module):
        path = config['checkpoint']
        if path.startswith('torchvision://'):
            _check_torchvision(path)
        if '://' in path or Path(path).expanduser().is_file():
            continue
        option = '--cfg-options model.backbone.'
        plain = f'torchvision://{module.plain_network}{module.depth}'
        raise InputError(
            f'no ImageNet weights at {path}: get them as {module.readme} says, or start from the '
            f'plain network ({option}init_cfg.checkpoint={plain}), or from scratch '
            f'({option}init_cfg=None model.backbone.frozen_stages=-1 '
            'model.backbone.norm_eval=False)'
        )


def _check_torchvision(path: str) -> None:
    if importlib.util.find_spec('torchvision') is not None:
        return
    urls = mmengine.load(str(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json'))
    url = urls.get(path[len('torchvision://') :], 'see pytorch.org/vision')
    raise InputError(
        f'{path} needs torchvision, which is not installed: install it, or set init_cfg.checkpoint '
        f"to the file's own address ({url})"
    )


def _unwrap(state_dict: dict) -> None:
    wrapped = state_dict.get('state_dict')
    if isinstance(wrapped, Mapping):
        state_dict.clear()
        state_dict.update(wrapped)
    if all(key.startswith('module.') for key in state_dict):
        for key in list(state_dict):
            state_dict[key[len('module.') :]] = state_dict.pop(key)


def _rename(name: str, old: str, new: str) -> str:
    # A component of the name must begin here: `conv2.1.` is not part of `xconv2.1.`.
    start = 0 if name.startswith(old) else name.find('.' + old) + 1
    if start or name.startswith(old):
        return name[:start] + new + name[start + len(old) :]
    return name


def _warm_start(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Complete and adapt the weights of a network without some of our parts, in place.

    A file that has any weight of a part should have them all: then that part is not completed, and
    PyTorch reports what is missing. It reports, too, what of a plain network is not there or of
    another shape, such as a first convolution for other images; the rest starts all the same.
    """
    own = {prefix + name: value for name, value in module.state_dict().items()}
    given = {key for key in state_dict if key.startswith(prefix)} & set(own)
    replaced = module.replaced_convolutions()
    fitting, reshaped = {}, []
    for key in sorted(given):
        here, there = own[key].shape, state_dict[key].shape
        if key[len(prefix) :] in replaced and here == (*there[:2], 1, 1) != there:
            reshaped.append(key)
        if key in reshaped or here == there:
            fitting[key] = state_dict[key]
    added = {}
    for part, marks in ADDED_PARTS.items():
        theirs = {key for key in own if any(mark in f'.{key}' for mark in marks)}
        if theirs and not theirs & given:
            added[part] = theirs
    if not ((added or reshaped) and any(value.dim() for value in fitting.values())):
        return
    notes = [_STARTS[part](module, fitting, prefix) for part in added]
    for key in reshaped:
        mean = f'{prefix}{replaced[key[len(prefix) :]]}.running_mean'
        muted = MUTED if mean in fitting else 1
        fitting[key] = fitting[key].sum((2, 3), keepdim=True) * muted
        if mean in fitting:
            fitting[mean] = fitting[mean] * muted
    if reshaped:
        names = ', '.join(key[len(prefix) :] for key in reshaped)
        notes.append(f'3x3 convolutions became 1x1, the muted sum of their taps, in {names}')
    # Files from before PyTorch 0.4.1 count no batches, and nothing depends on it.
    uncounted = {k for k in set(own) - given if k.endswith('.num_batches_tracked')}
    wanted = set(own) - uncounted.union(*added.values())
    left = sorted(wanted - set(fitting))
    if left:
        names = ', '.join(key[len(prefix) :] for key in left[:3]) + ', ...' * (len(left) > 3)
        notes.append(f'{len(left)} not there or of another shape ({names})')
    state_dict.update(fitting)
    for key in uncounted.union(*added.values()):
        state_dict[key] = own[key].detach().clone()
    lost = sum(own[key].numel() for key in (*reshaped, *left))
    kept = 1 - lost / sum(own[key].numel() for key in wanted)
    print_log(
        f'{type(module).__name__} warm start: {len(wanted) - len(left) - len(reshaped)} of '
        f'{len(wanted)} tensors kept, {kept:.1%} of the weights; ' + '; '.join(notes),
        logger='current',
        level=logging.WARNING,
    )


def _start_lip(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> str:
    """Let LIP begin close to max pooling where it replaces that; elsewhere it is an average."""
    stem = dict(module.named_modules()).get(module.stem_pool)
    like_max = isinstance(stem, LIPPool2d) and stem.start_as_max_pooling()
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    places = sorted({_place(name) for name in frozen if _belongs_to_lip(name)})
    note = 'LIP is untrained: '
    if like_max:
        note += f'{module.stem_pool} starts close to max pooling, the others as average pooling'
    else:
        note += 'it starts as average pooling'
        if isinstance(stem, LIPPool2d):
            kind = type(stem.logit).__name__
            note += f', {module.stem_pool} too, for a {kind} cannot start close to max pooling'
    return note + (f' (frozen so: {", ".join(places)})' if places else '')


def _belongs_to_lip(name: str) -> bool:
    return any(mark in f'.{name}' for mark in ADDED_PARTS['LIP'])


def _place(name: str) -> str:
    """Return the module that holds a LIP's parameter."""
    start = min(i for i in (f'.{name}'.find(m) for m in ADDED_PARTS['LIP']) if i >= 0)
    return name[: max(start - 1, 0)]


def _start_sge(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> str:
    """Divide the norm before each SGE by the one factor that SGE starts with.

    A norm without weights, or one with another plugin behind it, stays as it is.
    """
    for name, block in module.named_modules():
        for position in (1, 2, 3):
            plugins = getattr(block, f'after_conv{position}_plugin_names', None)
            sge = getattr(block, plugins[0]) if plugins else None
            if not isinstance(sge, SGE):
                continue
            norm = f'{prefix}{name}.{getattr(block, f"norm{position}_name")}'
            for key in {f'{norm}.weight', f'{norm}.bias'} & set(state_dict):
                value, factor = state_dict[key], sge.bias.detach().sigmoid().flatten()
                factor = factor.repeat_interleave(len(value) // len(factor))
                state_dict[key] = value / factor.to(value)
    return 'SGE is untrained and without effect at first'


def _start_deformable(module: nn.Module, state_dict: dict[str, Tensor], prefix: str) -> str:
    """Double the weights that a modulation of one half, where mmcv's starts, halves."""
    for name, layer in module.named_modules():
        if isinstance(layer, ModulatedDeformConv2dPack):
            key = f'{prefix}{name}.weight'
            if key in state_dict:
                state_dict[key] = state_dict[key] * 2
    return 'deformable convolutions are untrained and start as plain ones'


_STARTS = {
    'LIP': _start_lip,
    'deformable convolution': _start_deformable,
    'SGE': _start_sge,
}
