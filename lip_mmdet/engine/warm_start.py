"""What a trained ResNet detector keeps when LIP moves in, measured without any training."""

from __future__ import annotations

import os
from typing import Callable, Iterator, NamedTuple

from mmengine.config import Config
from torch import nn

from lip_mmdet.backbones.checkpoints import MUTED
from lip_mmdet.engine.checkpoint_fit import CheckpointFitHook
from lip_mmdet.engine.mmdet_tools import say_and_check_data
from lip_mmdet.engine.runner import TerseRunner
from lip_mmdet.engine.safe_loading import check_checkpoint
from lip_mmdet.errors import InputError

FIGURES = {
    'AP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'APS': 'coco/bbox_mAP_s',
    'APM': 'coco/bbox_mAP_m',
    'APL': 'coco/bbox_mAP_l',
}


class Start(NamedTuple):
    """One way to put LIP into a detector.

    Attributes:
        label: what the table calls it.
        backbone: changes to the config of the backbone.
        edit: what is done to the backbone after its weights were loaded.
    """

    label: str
    backbone: dict
    edit: Callable[[nn.Module], None] | None = None


def _average_stem(backbone: nn.Module) -> None:
    backbone.maxpool.logit.start('average')


def _let_through(backbone: nn.Module) -> None:
    for weight, norm in backbone.replaced_convolutions().items():
        mean = getattr(backbone.get_submodule(norm), 'running_mean', None)
        if mean is not None:
            mean /= MUTED
            backbone.get_parameter(weight).data /= MUTED


def starts(num_stages: int) -> tuple[Start, ...]:
    """Return the rows of the table for a ResNet of so many stages."""
    lip = dict(type='LIPResNet')
    return (
        Start('the detector as it is', {}),
        Start('LIP everywhere, as a warm start begins', lip),
        Start('LIP in the stem alone', dict(lip, lip_stages=(False,) * num_stages)),
        Start('LIP in the stages alone', dict(lip, lip_stem=False)),
        Start('LIP everywhere, the stem as average pooling', lip, _average_stem),
        Start('LIP everywhere, 1x1 convolutions let through fully', lip, _let_through),
    )


def score_starts(config: Config, checkpoint: str | os.PathLike) -> Iterator[tuple[str, dict]]:
    """Score a plain ResNet detector, then LIP in it by each of :func:`starts`, on its test data.

    Args:
        config: of the detector, whose backbone is MMDetection's ``ResNet`` and whose
            ``test_evaluator`` is a ``CocoMetric``.
        checkpoint: its weights.

    Yields:
        The label of a start and its figures by the names in :data:`FIGURES`, as fractions; -1
        where the data have no such objects.

    Raises:
        InputError: another backbone, another evaluator, unusable data, or weights that do not fit
            the detector.
    """
    backbone = config.model.get('backbone') or {}
    if backbone.get('type') not in ('ResNet', 'mmdet.ResNet'):
        raise InputError(
            f'{config.filename} has a {backbone.get("type")} as backbone; name the config of a '
            'detector with a ResNet, whose weights are to be kept'
        )
    evaluator = config.get('test_evaluator')
    if not isinstance(evaluator, dict) or evaluator.get('type') not in (
        'CocoMetric',
        'mmdet.CocoMetric',
    ):
        raise InputError(f"{config.filename}: set test_evaluator to one CocoMetric, metric='bbox'")
    say_and_check_data(config, 'test_dataloader')
    check_checkpoint(checkpoint)
    for number, start in enumerate(starts(backbone.get('num_stages', 4))):
        changed = Config(config.to_dict(), filename=config.filename)
        changed.model.backbone.update(start.backbone)
        changed.experiment_name = f'warm_start_{number}'
        changed.load_from = str(checkpoint)
        changed.test_evaluator.update(metric='bbox', format_only=False, prefix=None)
        runner = TerseRunner.from_cfg(changed)
        # Figures of a detector that lacks half of its weights would pass for those of a start.
        runner.register_hook(CheckpointFitHook())
        runner.load_or_resume()
        if start.edit is not None:
            start.edit(runner.model.backbone)
        scores = runner.test()
        yield start.label, {name: scores[key] for name, key in FIGURES.items()}
