"""What a detection config says of its data, checked in a second instead of failing in an hour."""

from __future__ import annotations

import os.path as osp
from typing import Iterator

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import GroundTruth, load_ground_truth

# Reading COCO's own training annotations twice would cost ten seconds; MMDetection reads them once.
_LARGEST_FILE_READ = 64 * 2**20  # bytes
# The heads whose `num_classes` counts the classes of the dataset.
_HEADS = ('bbox_head', 'mask_head')


def check_dataset(config: Config, loader: str) -> None:
    """Check the COCO-format datasets of one dataloader.

    Looks at datasets of the type ``CocoDataset`` on local disks. What is derived from it, lies
    behind ``backend_args`` or detects by words instead of classes is left to MMDetection.

    Args:
        config: a whole detection config.
        loader: ``'train_dataloader'``, ``'val_dataloader'`` or ``'test_dataloader'``.

    Raises:
        InputError: a folder or annotation file is missing; the file is not in COCO's format; its
            categories lack one of the classes; or the classes are not as many as the model's
            ``num_classes``.
    """
    model = config.get('model') or {}
    for dataset in _coco_datasets((config.get(loader) or {}).get('dataset')):
        where = f'{loader}.dataset'
        if dataset.get('backend_args') or 'language_model' in model:
            continue
        root = dataset.get('data_root') or ''
        annotations = osp.join(root, dataset.get('ann_file') or '')
        images = osp.join(root, (dataset.get('data_prefix') or {}).get('img') or '')
        if '://' in annotations or '://' in images:
            continue
        if root and not osp.isdir(root):
            raise InputError(
                f'no dataset folder {root}: put the data there or set {where}.data_root'
            )
        if not osp.isfile(annotations):
            raise InputError(f'no annotation file {annotations}: set {where}.ann_file')
        if images and not osp.isdir(images):
            raise InputError(f'no image folder {images}: set {where}.data_prefix.img')
        # A file of class names is MMEngine's to read.
        classes = (dataset.get('metainfo') or {}).get('classes') or CocoDataset.METAINFO['classes']
        classes = () if isinstance(classes, str) else tuple(classes)
        if osp.getsize(annotations) <= _LARGEST_FILE_READ:
            truth = load_ground_truth(annotations, labels=loader != 'test_dataloader')
            _check_categories(truth, classes, annotations, where)
        for path, number in _num_classes(model, 'model'):
            if classes and number != len(classes):
                raise InputError(
                    f'{path}.num_classes is {number}, but {where} has {len(classes)} classes; '
                    'make them agree (metainfo.classes lists the names)'
                )


def _coco_datasets(dataset: ConfigDict | list | None) -> Iterator[ConfigDict]:
    """Yield the COCO-format datasets inside wrappers such as ``RepeatDataset``."""
    if isinstance(dataset, (list, tuple)):
        for inner in dataset:
            yield from _coco_datasets(inner)
    elif dataset is not None:
        kind = dataset.get('type')
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        if kind is CocoDataset:
            yield dataset
        yield from _coco_datasets(dataset.get('dataset'))
        yield from _coco_datasets(dataset.get('datasets'))


def _check_categories(truth: GroundTruth, classes: tuple[str, ...], path: str, where: str) -> None:
    names = list(truth.category_names.values())
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise InputError(
            f'{path} has no category {", ".join(map(repr, unknown[:5]))}; it has '
            f'{", ".join(map(repr, names[:10]))}: set {where}.metainfo.classes'
        )
    if np.isnan(truth.image_sizes).any():
        raise InputError(
            f'{path}: MMDetection needs width and height of each image, in pixels; add them'
        )


def _num_classes(config: ConfigDict | list, path: str) -> Iterator[tuple[str, int]]:
    """Yield each ``num_classes`` of the heads that classify objects, with the path to its dict."""
    if isinstance(config, (list, tuple)):
        for i, item in enumerate(config):
            yield from _num_classes(item, f'{path}[{i}]')
    elif isinstance(config, dict):
        head = path.rpartition('.')[2].partition('[')[0] in _HEADS
        if head and isinstance(config.get('num_classes'), int):
            yield path, config['num_classes']
        for key, value in config.items():
            yield from _num_classes(value, f'{path}.{key}')
