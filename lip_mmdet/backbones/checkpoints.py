"""The state dicts that a backbone accepts, turned into its own before PyTorch compares names.

Three things meet here. Released files come in wrappings (a ``state_dict`` entry, a ``module.``
prefix, a classifier). Their names are not ours: :class:`OfficialNames`. And the weights of a plain
network, without LIP, SGE or deformable convolutions, fit in part: a *warm start*.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, NamedTuple

import mmengine
from mmengine.logging import print_log
from torch import Tensor, nn

from lip_mmdet.errors import InputError

# What a network may have that the one it starts from has not. Each starts without knowledge: LIP as
# average pooling, deformable convolution with no offset, SGE with one weight for all positions.
ADDED_PARTS = {
    'LIP': ('.logit.', '.logit_trunk.', '.residual_logit.', '.shortcut_logit.'),
    'deformable convolution': ('.conv_offset.',),
    'SGE': ('.sge',),
}


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
            state_dict[prefix + names.to_ours(name)] = value
    _warm_start(module, state_dict, prefix)


def check_pretrained(module: nn.Module) -> None:
    """Check that what a backbone's ``init_cfg`` starts from can be had.

    Args:
        module: a :class:`~lip_mmdet.backbones.base.ReleasedBackbone`.

    Raises:
        InputError: a local file is not there, and the message names the other two ways to start;
            or it is torchvision's and torchvision is not installed.
    """
    configs = module.init_cfg if isinstance(module.init_cfg, list) else [module.init_cfg]
    for config in configs:
        path = (config or {}).get('checkpoint')
        if path is not None and path.startswith('torchvision://'):
            _check_torchvision(path)
        if path is None or '://' in path or Path(path).expanduser().is_file():
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
    """Complete the weights of a network without some of our parts with what those start from.

    A file that has any weight of a part should have them all: then nothing is completed, and
    PyTorch reports what is missing.
    """
    own = {prefix + name: value for name, value in module.state_dict().items()}
    given = {key for key in state_dict if key.startswith(prefix)}
    missing, notes = set(own) - given, []
    added = set()
    for part, marks in ADDED_PARTS.items():
        theirs = {key for key in own if any(mark in f'.{key}' for mark in marks)}
        if theirs and not theirs & given and given:
            added |= theirs
            notes.append(f'{part} ({len(theirs)} tensors) starts untrained')
    if not added or missing - added:
        return
    reshaped = [k for k in own if k in given and own[k].shape != state_dict[k].shape]
    # LIP and a 1x1 convolution stand where the other network has a strided 3x3 convolution.
    if any(not key.endswith(('.conv1.weight', '.conv2.weight')) for key in reshaped):
        return
    if reshaped:
        names = ', '.join(key[len(prefix) :] for key in sorted(reshaped))
        notes.append(f'of another shape and not loaded: {names}')
    for key in added.union(reshaped):
        state_dict[key] = own[key].detach().clone()
    print_log(
        f'{type(module).__name__} warm start: {len(given) - len(reshaped)} tensors loaded; '
        + '; '.join(notes),
        logger='current',
        level=logging.WARNING,
    )
