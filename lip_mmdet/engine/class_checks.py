"""Whether a config's classes are as many as its heads have, and in its annotation file's order."""

from __future__ import annotations

from typing import Iterator, Sequence

from mmengine.config import ConfigDict

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.coco_file import CocoFile
from lip_mmdet.evaluation.json_file import shown
from lip_mmdet.evaluation.loader_view import names_in_order

# The heads whose `num_classes` counts the classes of the dataset.
_HEADS = ('bbox_head', 'mask_head')


def check_num_classes(model: ConfigDict, classes: Sequence[str], where: str) -> None:
    """Raise InputError where a head has another number of classes than the dataset at ``where``."""
    for path, number in _num_classes(model, 'model'):
        if number != len(classes):
            raise InputError(
                f'{path}.num_classes is {number}, but {where} has {len(classes)} classes; '
                'make them agree (metainfo.classes lists the names)'
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


def check_order(file: CocoFile, classes: Sequence[str], where: str, by_id: bool) -> list[str]:
    """Check that label k, the file's k-th category among the classes, has the k-th class's name."""
    order = names_in_order(file.categories, classes, by_id)
    if len(set(classes)) < len(classes):
        raise InputError(f'{where}.metainfo.classes has a name twice: {tuple(classes)}')
    twice = next((name for name in order if order.count(name) > 1), None)
    ids = file.categories['id']
    if twice is not None:
        raise InputError(
            f'{file.source} has more than one category {shown(twice)}, so that labels would stand '
            'for other classes; merge them or rename one'
        )
    if len(set(map(repr, ids))) < len(ids):
        raise InputError(f'{file.source}: category ids occur again; number the categories anew')
    if order == list(classes[: len(order)]) and order:
        missing = classes[len(order) :]
        return [
            f'warning: {where}: {file.source} has no category {", ".join(map(shown, missing[:5]))}'
        ] if missing else []  # fmt: skip
    unknown = [name for name in classes if name not in order]
    if unknown:
        names = file.categories['name']
        raise InputError(
            f'{file.source} has no category {", ".join(map(shown, unknown[:5]))}; it has '
            f'{", ".join(map(shown, names[:10]))}: set {where}.metainfo.classes'
        )
    raise InputError(
        f'{where}.metainfo.classes has another order than the categories of {file.source}, by '
        'which MMDetection numbers labels, so that names would be swapped: write classes = '
        f'{tuple(order)}'
    )
