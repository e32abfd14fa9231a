"""What the backbones of a study's arms cost, measured in turns on one machine."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from lip_mmdet.backbones.watching import run_and_see
from lip_mmdet.benchmark.backbones import caller
from lip_mmdet.benchmark.measure import interleave, summarize
from lip_mmdet.errors import InputError
from lip_mmdet.files import write_json
from lip_mmdet.study.machine import machine
from lip_mmdet.study.plan import Run, Study

# Key in the costs file -> head of the table's column.
COSTS = {
    'mega_multiply_adds': 'M multiply-adds',
    'milliseconds': 'ms',
    'step_milliseconds': 'ms of a training step',
}
_IMAGE = (1, 3, 256, 256)
_BATCH = (4, 3, 256, 256)


def write_costs(study: Study, repeats: int = 15) -> None:
    """Time the backbones of the arms that train: an image and a training batch of 256 pixels.

    On the CPU, all arms in turns, which is fair to them however busy the machine is.

    Args:
        study: the study.
        repeats: timed runs of each, of which the median is kept.

    Raises:
        InputError: no arm trains, or a backbone does not take such images.
    """
    trained = {run.arm: run for run in study.runs if run.trains}
    if not trained:
        raise InputError(f'no arm of {study.name} trains, so there is nothing to time')
    # Arms of one backbone are measured once, and have the same costs.
    nets = {}
    for run in trained.values():
        if backbone_of(run) not in nets:
            nets[backbone_of(run)] = _backbone(run)
    costs = {text: {'mega_multiply_adds': _multiply_adds(net)} for text, net in nets.items()}
    first = next(iter(nets))
    for name, training, shape in (
        ('milliseconds', False, _IMAGE),
        ('step_milliseconds', True, _BATCH),
    ):
        images = torch.rand(shape)
        calls = {text: caller(net, images, training) for text, net in nets.items()}
        for text, row in zip(nets, summarize(interleave(calls, repeats), first)):
            costs[text][name] = row['milliseconds']
    arms = {
        arm: {**costs[backbone_of(run)], 'backbone': backbone_of(run)}
        for arm, run in trained.items()
    }
    about = dict(machine=machine(), threads=torch.get_num_threads(), image=_IMAGE, batch=_BATCH)
    write_json(study.costs_file, {**about, 'arms': arms})


def backbone_of(run: Run) -> str:
    """Return the config of a run's backbone, as text."""
    return str(run.config.model.get('backbone'))


def _backbone(run: Run) -> nn.Module:
    init_default_scope(run.config.get('default_scope') or 'mmdet')
    try:
        net = MODELS.build(copy.deepcopy(run.config.model.backbone))
        caller(net, torch.rand(_BATCH), training=True)()
    except Exception as error:  # whatever a network says of images that it cannot take
        raise InputError(f'no costs of {run.arm}: its backbone does not run: {error}') from error
    return net


def _multiply_adds(net: nn.Module) -> float:
    net.eval()
    with torch.no_grad():
        return sum(run_and_see(net, torch.zeros(_IMAGE)).multiply_adds.values()) / 1e6
