"""What a detection config says of its data, checked in a second instead of failing in an hour."""

from __future__ import annotations

import json
import os.path as osp
from typing import Iterator

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict

from lip_mmdet.errors import InputError

# Reading COCO's own training annotations twice would cost ten seconds; MMDetection reads them once.
_LARGEST_FILE_READ = 64 * 2**20  # bytes


def check_dataset(config: Config, loader: str) -> None:
    """Check the COCO-format datasets of one dataloader.

    Looks at datasets of the types ``CocoDataset`` and derived ones; leaves any other, and files at
    remote addresses, to MMDetection.

    Args:
        config: a whole detection config.
        loader: ``'train_dataloader'``, ``'val_dataloader'`` or ``'test_dataloader'``.

    Raises:
        InputError: a folder or annotation file is missing; the file is not COCO's format; its
            categories lack one of the classes; or the classes are not as many as the model's
            ``num_classes``.
    """
    for dataset in _coco_datasets((config.get(loader) or {}).get('dataset')):
        where = f'{loader}.dataset'
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
        if not osp.isdir(images):
            raise InputError(f'no image folder {images}: set {where}.data_prefix.img')
        classes = _classes(dataset)
        if osp.getsize(annotations) <= _LARGEST_FILE_READ:
            _check_annotations(annotations, classes, where)
        for path, number in _num_classes(config.get('model') or {}, 'model'):
            if classes and number != len(classes):
                raise InputError(
                    f'{path}.num_classes is {number}, but {where} has {len(classes)} classes; '
                    'make them agree (metainfo.classes lists the names)'
                )


def _coco_datasets(dataset: ConfigDict | list | None) -> Iterator[ConfigDict]:
    """Yield the COCO-format datasets inside wrappers such as ``RepeatDataset``."""
    from mmdet.datasets import CocoDataset

    if isinstance(dataset, (list, tuple)):
        for inner in dataset:
            yield from _coco_datasets(inner)
    elif dataset is not None:
        kind = dataset.get('type')
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        if isinstance(kind, type) and issubclass(kind, CocoDataset):
            yield dataset
        yield from _coco_datasets(dataset.get('dataset'))
        yield from _coco_datasets(dataset.get('datasets'))


def _classes(dataset: ConfigDict) -> tuple[str, ...]:
    kind = dataset['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    classes = (dataset.get('metainfo') or {}).get('classes') or kind.METAINFO.get('classes', ())
    # MMEngine also takes the name of a text file.
    return () if isinstance(classes, str) else tuple(classes)


def _check_annotations(path: str, classes: tuple[str, ...], where: str) -> None:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f'{path} is not whole JSON ({error}); fetch it again') from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'categories')
    ):
        raise InputError(
            f'{path} is not in COCO format: it needs lists named images and categories (and '
            'annotations, to train or score)'
        )
    names = [category.get('name') for category in content['categories']]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise InputError(
            f'{path} has no category {", ".join(map(repr, unknown[:5]))}; it has '
            f'{", ".join(map(repr, names[:10]))}: set {where}.metainfo.classes'
        )


def _num_classes(config: ConfigDict | list, path: str) -> Iterator[tuple[str, int]]:
    """Yield each ``num_classes`` of a model config with the path to its dict."""
    if isinstance(config, (list, tuple)):
        for i, item in enumerate(config):
            yield from _num_classes(item, f'{path}[{i}]')
    elif isinstance(config, dict):
        if isinstance(config.get('num_classes'), int) and path.rpartition('.')[2] != 'rpn_head':
            yield path, config['num_classes']
        for key, value in config.items():
            yield from _num_classes(value, f'{path}.{key}')
