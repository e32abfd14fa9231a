"""From a config and a checkpoint to a COCO results file, through MMEngine's Runner.

Runs in one process or under torchrun and slurm; the results do not depend on the number of
processes. This module imports torch and MMDetection and is not imported by the package.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lip_mmdet.errors import InputError


@dataclass(frozen=True)
class DetectionFiles:
    """Where the annotations, the detections and the images are, and which classes were meant."""

    ann_file: Path
    results: Path
    image_folder: Path
    classes: tuple[str, ...] | None = None


def detect(
    config_path: str | os.PathLike,
    checkpoint: str | os.PathLike,
    *,
    cfg_options: dict[str, Any] | None = None,
    work_dir: str | os.PathLike | None = None,
    launcher: str = 'none',
    ann_file: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
    allow_partial: bool = False,
    iou_type: str = 'bbox',
) -> DetectionFiles | None:
    """Run a detector over its config's test data and write the detections as COCO results.

    Args:
        config_path: an MMDetection config.
        checkpoint: weights, local or at an address that MMEngine reads.
        cfg_options: changes to the config by dotted name.
        work_dir: where logs and results go; the config's own, or ``work_dirs/<config's name>``.
        launcher: ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.
        ann_file: annotations in place of the config's.
        image_folder: images in place of the config's.
        allow_partial: go on with a checkpoint of other classes, or that fits the model in part.
        iou_type: ``'segm'`` asks for the results with masks.

    Returns:
        The files, or None in every process but the first.

    Raises:
        InputError: the config, its test data or the checkpoint is missing or unusable, or the
            model gives no masks.
    """
    from mmengine.dist import is_main_process

    from lip_mmdet.engine.checkpoint_fit import CheckpointFitHook
    from lip_mmdet.engine.config_checks import config_classes
    from lip_mmdet.engine.mmdet_tools import read_config, say_and_check_data
    from lip_mmdet.engine.runner import TerseRunner
    from lip_mmdet.engine.safe_loading import check_checkpoint

    config_path = Path(config_path)
    config = read_config(SimpleNamespace(config=config_path, cfg_options=cfg_options))
    check_checkpoint(checkpoint)
    work_dir = Path(work_dir or config.get('work_dir') or f'work_dirs/{config_path.stem}')
    dataset = _coco_dataset(config)
    if ann_file is not None:
        _replace_data(dataset, ann_file, image_folder)
    ann_file = test_annotations(config)
    prefix = work_dir / f'{Path(checkpoint).stem}_{ann_file.stem}'

    config.launcher = launcher
    config.work_dir = str(work_dir)
    config.load_from = str(checkpoint)
    config.test_evaluator = dict(
        type='CocoMetric', ann_file=str(ann_file), format_only=True, outfile_prefix=str(prefix)
    )
    # Scoring reads the file by its own rules, so the config's own metric is not asked.
    say_and_check_data(config, 'test_dataloader')
    if launcher != 'none':
        from lip_mmdet.engine.launch import join_processes_on_cpu

        config.merge_from_dict(
            join_processes_on_cpu(launcher, bool(config.get('find_unused_parameters')))
        )
    results = Path(f'{prefix}.{iou_type}.json')
    runner = TerseRunner.from_cfg(config)
    runner.register_hook(CheckpointFitHook(allow_partial))
    if is_main_process():
        results.unlink(missing_ok=True)  # an earlier test's
    runner.test()
    if not is_main_process():
        return None
    if not results.is_file():
        raise InputError(f'{config_path} gives no masks; leave --iou-type segm out')
    images = Path(dataset.get('data_root') or '') / (dataset.get('data_prefix') or {}).get(
        'img', ''
    )
    classes = config_classes(config, 'test_dataloader')
    return DetectionFiles(ann_file, results, images, classes)


def _coco_dataset(config: Any) -> Any:
    """Return the config of the test dataset, out of whatever wraps it."""
    if config.get('test_dataloader') is None:
        raise InputError(f'{config.filename} has no test_dataloader: there is nothing to detect on')
    dataset = config.test_dataloader.dataset
    while 'ann_file' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if 'ann_file' not in dataset:
        raise InputError(
            f'{config.filename}: test_dataloader.dataset is a {dataset.get("type")}, which names '
            'no ann_file; COCO-format data is needed'
        )
    return dataset


def _replace_data(dataset: Any, ann_file: Any, image_folder: Any) -> None:
    dataset.ann_file = os.path.abspath(ann_file)
    if image_folder is not None:
        dataset.data_prefix = dict(img=os.path.abspath(image_folder))


def test_annotations(config: Any) -> Path:
    """Return the annotation file of a config's test dataset.

    Raises:
        InputError: it names none, or one that is not there.
    """
    dataset = _coco_dataset(config)
    path = Path(dataset.get('data_root') or '') / dataset.ann_file
    if not path.is_file():
        raise InputError(
            f'annotation file {path} of {config.filename} does not exist; put the data there or '
            'pass --cfg-options test_dataloader.dataset.data_root=FOLDER'
        )
    return path
