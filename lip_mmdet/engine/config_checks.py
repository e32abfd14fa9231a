"""What a detection config says of its data, checked in seconds instead of failing in an hour.

The tools ask :func:`check_data` before they start, and `data_hook` asks it for whoever starts
MMDetection another way. It judges by MMDetection's own rules what :mod:`lip_mmdet.evaluation` read.
"""

from __future__ import annotations

import os.path as osp
from typing import Any, Iterator, Sequence

from mmdet.datasets import CocoDataset, Objects365V1Dataset, Objects365V2Dataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file

from lip_mmdet.engine.class_checks import check_num_classes, check_order
from lip_mmdet.engine.coco_metric import LIPCocoMetric
from lip_mmdet.engine.image_checks import check_images
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.coco_file import CocoFile, read_categories, read_coco
from lip_mmdet.evaluation.ground_truth import ground_truth_of
from lip_mmdet.evaluation.json_file import shown
from lip_mmdet.evaluation.loader_view import (
    LoaderView,
    check_categories,
    check_scorable,
    loader_view,
    names_in_order,
)
from lip_mmdet.evaluation.numbering import Numbering

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What CocoDataset takes for them.
_TYPES = dict(data_root=str, ann_file=str, data_prefix=dict, metainfo=dict, filter_cfg=dict)
# What was judged in this process, so that a tool and the hook say nothing twice.
_judged: set[str] = set()


def check_data(config: Config, *loaders: str) -> list[str]:
    """Check the COCO-format datasets of dataloaders, and the files they are scored with.

    Looks at datasets of the types ``CocoDataset`` and ``Objects365V1Dataset`` on local disks, and
    at the classes of ``Objects365V2Dataset``. What is derived from them, lies behind
    ``backend_args`` or detects by words instead of classes is left to MMDetection, and a note says
    so. What this process checked before is not checked again.

    Args:
        config: a whole detection config.
        loaders: among :data:`LOADERS`.

    Returns:
        What is worth knowing, one line each, beginning with ``warning:`` or ``note:``.

    Raises:
        InputError: a file or image is missing; MMDetection would stumble over a file or train on
            nothing; or classes would be numbered otherwise than named.
    """
    parts = [config.get(name) for loader in loaders for name in (loader, _evaluator(loader))]
    key = repr([config.get('model', {}).get('type'), parts])
    if key in _judged:
        return []
    _judged.add(key)
    model, notes = config.get('model') or {}, []
    files: dict[str, CocoFile] = {}
    for loader in loaders:
        boxes, views = 0, []
        datasets = list(inner_datasets((config.get(loader) or {}).get('dataset'), loader))
        for where, dataset in datasets:
            reason = _left_to_mmdetection(dataset, model, where)
            if reason:
                notes.append(f'note: {where} {reason}: its data are left to MMDetection')
                views.append(None)
                continue
            path, images, classes = _located(dataset, where)
            file = files[path] = files.get(path) or read_coco(path)
            check_categories(file)
            _check_same_numbers(config, loader, path, file, dataset)
            notes += check_order(file, classes, where, _by_id(dataset))
            check_num_classes(model, classes, where)
            if _kind(dataset) is Objects365V2Dataset:  # renames images and leaves some out
                notes.append(f'note: {where}: boxes of Objects365 V2 are left to MMDetection')
                views.append(None)
                continue
            training = not dataset.get('test_mode', False)
            view = loader_view(
                file,
                classes,
                dataset.get('filter_cfg') if training else None,
                masks=any(step.get('with_mask') for step in dataset.get('pipeline') or []),
                indices=dataset.get('indices'),
            )
            notes += [f'warning: {where}: {note}' for note in view.notes]
            if loader == 'train_dataloader':
                notes += _told(view, where, path)
                boxes += view.boxes
            views.append(view)
            notes += check_images(view, images, dataset, where)
            if not view.file_names and dataset.get('serialize_data', True):
                what = 'nothing to train on' if training else 'no image to load'
                raise InputError(f'{where}: {what} in {path}: {_reasons(view)} left out')
            notes += _check_scored(
                config, loader, path, file, classes, _by_id(dataset), files, len(datasets) == 1
            )
        if loader == 'train_dataloader' and views and None not in views and not boxes:
            reasons = '; '.join(_reasons(view) for view in views)
            raise InputError(f'{loader}: nothing to train on: {reasons} left out')
    return notes


def _evaluator(loader: str) -> str:
    return loader.replace('dataloader', 'evaluator')


def inner_datasets(dataset: Any, where: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the datasets inside wrappers such as ``RepeatDataset``, with their place."""
    if isinstance(dataset, (list, tuple)):
        for number, inner in enumerate(dataset):
            yield from inner_datasets(inner, f'{where}[{number}]')
    elif dataset is not None:
        inner = [name for name in ('dataset', 'datasets') if dataset.get(name)]
        for name in inner:
            yield from inner_datasets(dataset[name], f'{where}.dataset')
        if not inner:
            yield f'{where}.dataset' if where in LOADERS else where, dataset


def _kind(dataset: ConfigDict) -> Any:
    kind = dataset.get('type')
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def _by_id(dataset: ConfigDict) -> bool:
    return _kind(dataset) is Objects365V1Dataset


def _left_to_mmdetection(dataset: ConfigDict, model: ConfigDict, where: str) -> str:
    if _kind(dataset) not in (CocoDataset, Objects365V1Dataset, Objects365V2Dataset):
        return f'is a {dataset.get("type")}'
    for key, kind in _TYPES.items():
        if not isinstance(dataset.get(key), (kind, type(None))):
            raise InputError(
                f'{where}.{key} is {shown(dataset[key])}; {dataset.type} takes a {kind.__name__}'
            )
    if dataset.get('backend_args'):
        return 'has backend_args'
    if 'language_model' in model:
        return 'names its classes in words'
    root = dataset.get('data_root') or ''
    prefix = (dataset.get('data_prefix') or {}).get('img') or ''
    paths = (osp.join(root, dataset.get('ann_file') or ''), osp.join(root, prefix))
    return 'is on another machine' if any('://' in path for path in paths) else ''


def _located(dataset: ConfigDict, where: str) -> tuple[str, str, tuple[str, ...]]:
    """Return annotation file, image folder and classes of a dataset, which are there."""
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    annotations = osp.join(root, dataset.get('ann_file') or '')
    images = osp.join(root, prefix.get('img') or '')
    if root and not osp.isdir(root):
        raise InputError(f'no dataset folder {root}: put the data there or set {where}.data_root')
    if not osp.isfile(annotations):
        raise InputError(f'no annotation file {annotations}: set {where}.ann_file')
    if 'img' not in prefix:
        raise InputError(f'{where}.data_prefix has no img: set data_prefix=dict(img=FOLDER)')
    if images and not osp.isdir(images):
        raise InputError(f'no image folder {images}: set {where}.data_prefix.img')
    return annotations, images, _classes(dataset, where)


def _classes(dataset: ConfigDict, where: str) -> tuple[str, ...]:
    classes = (dataset.get('metainfo') or {}).get('classes') or _kind(dataset).METAINFO['classes']
    if isinstance(classes, str):
        if not osp.isfile(classes):
            raise InputError(
                f'{where}.metainfo.classes is the text {classes!r}, whose letters would be the '
                f'classes: write a tuple, ({classes!r},)'
            )
        classes = list_from_file(classes)
    return tuple(classes)


def config_classes(config: Config, loader: str) -> tuple[str, ...] | None:
    """Return the classes of a dataloader's first dataset, None where it is left to MMDetection."""
    for where, dataset in inner_datasets((config.get(loader) or {}).get('dataset'), loader):
        kind = _kind(dataset)
        if isinstance(kind, type) and issubclass(kind, CocoDataset):
            return _classes(dataset, where)
    return None


def _check_same_numbers(
    config: Config, loader: str, path: str, file: CocoFile, dataset: ConfigDict
) -> None:
    """Check that the config's other files number the classes as this one does."""
    classes = _classes(dataset, loader)
    own = names_in_order(file.categories, classes, _by_id(dataset))
    for other_loader in LOADERS:
        for where, other in inner_datasets(
            (config.get(other_loader) or {}).get('dataset'), other_loader
        ):
            if _left_to_mmdetection(other, config.get('model') or {}, where):
                continue
            other_path = osp.join(other.get('data_root') or '', other.get('ann_file') or '')
            if other_path == path or not osp.isfile(other_path):
                continue
            categories = read_categories(other_path)
            if categories is None:  # its own check says what is wrong
                continue
            names = names_in_order(categories, _classes(other, where), _by_id(other))
            for label, (mine, theirs) in enumerate(zip(own, names)):
                if mine != theirs:
                    raise InputError(
                        f'{path} and {other_path} number the classes differently: label {label} is '
                        f'{shown(mine)} in the first and {shown(theirs)} in the second ({where}); '
                        'list the same categories in the same order in both'
                    )


def _check_scored(
    config: Config,
    loader: str,
    path: str,
    file: CocoFile,
    classes: Sequence[str],
    by_id: bool,
    files: dict[str, CocoFile],
    alone: bool,
) -> list[str]:
    """Check the file that a loader's predictions are scored with, as its metric reads it."""
    notes, evaluators = [], config.get(_evaluator(loader)) or []
    for metric in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        kind = metric.get('type')
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        ann_file = metric.get('ann_file')
        if kind not in (CocoMetric, LIPCocoMetric) or not ann_file or metric.get('backend_args'):
            continue
        if not osp.isfile(ann_file):
            raise InputError(f'no annotation file {ann_file}: set {_evaluator(loader)}.ann_file')
        scored = file
        if osp.realpath(ann_file) != osp.realpath(path):
            scored = files[ann_file] = files.get(ann_file) or read_coco(ann_file)
            check_categories(scored)
            check_order(scored, classes, _evaluator(loader), by_id)
        if metric.get('format_only'):
            continue
        if kind is LIPCocoMetric:
            ground_truth_of(scored)
        else:
            check_scorable(scored, classes, masks='segm' in metric.get('metric', 'bbox'))
        if scored is not file:
            where = f'{_evaluator(loader)}.ann_file'
            notes += _check_same_images(file, scored, where, kind is CocoMetric, alone)
    return notes


def _check_same_images(
    file: CocoFile, scored: CocoFile, key: str, all_known: bool, alone: bool
) -> list[str]:
    """Check that the images detected on are those scored, where two files list them.

    Args:
        all_known: whether the metric stops at an image that it does not know.
        alone: whether all images that are detected on are in ``file``.
    """
    ids, known = Numbering(scored.images).of(file.images, 'id')
    unknown, unseen = int((~known).sum()), len(scored.images) - len(set(ids[known].tolist()))
    if unknown and (all_known or not known.any()):
        raise InputError(
            f'{unknown} of {len(known)} images of {file.source} are not in {scored.source}, by '
            f'which they are to be scored: set {key} to the file of the dataset'
        )
    return [
        f'warning: {key}: {count} images of {one.source} are not in {other.source}: {what}'
        for count, one, other, what in (
            (unknown, file, scored, 'what is detected there does not count'),
            (unseen * alone, scored, file, 'their objects count as missed'),
        )
        if count
    ]


def _told(view: LoaderView, where: str, path: str) -> list[str]:
    """Tell how much a training sees, and in one warning what it does not."""
    crowds = f', {view.crowds:,} crowd boxes to ignore' if view.crowds else ''
    empty = f', {view.background:,} images as background' if view.background else ''
    told = [
        f'note: {where}: training on {view.boxes:,} boxes in {len(view.file_names):,} images of '
        f'{path}{crowds}{empty}'
    ]
    if view.left_out or view.left_out_images.keys() - {'no object of the classes'}:
        told.append(f'warning: {where}: MMDetection leaves out {_reasons(view)}')
    elif view.left_out_images:
        told.append(f'note: {where}: MMDetection leaves out {_reasons(view)}')
    return told


def _reasons(view: LoaderView) -> str:
    """Say which boxes and images are left out, and why."""
    parts = []
    for noun, reasons, total in (
        ('boxes', view.left_out, view.box_count),
        ('images', view.left_out_images, view.image_count),
    ):
        if reasons:
            listed = ', '.join(f'{number:,} {reason}' for reason, number in reasons.items())
            parts.append(f'{sum(reasons.values()):,} of {total:,} {noun} ({listed})')
    return ' and '.join(parts) or f'{view.box_count:,} boxes in {view.image_count:,} images'
