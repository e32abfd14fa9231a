"""Whether the images of a dataset are there, can be read, and are of the size that is listed."""

from __future__ import annotations

import os.path as osp
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mmcv
from mmengine.config import ConfigDict
from PIL import Image

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.loader_view import LoaderView

# Up to this many images all are looked for, beyond it a sample of so many; and how many are opened.
_ALL_IMAGES, _SAMPLE, _OPENED = 20_000, 2_000, 200
# The tag of EXIF that says how a picture is to be turned, by a quarter from 5 on.
_ORIENTATION = 274


def check_images(view: LoaderView, folder: str, dataset: ConfigDict, where: str) -> list[str]:
    """Check a dataset's images, if its pipeline reads them from a local disk.

    Args:
        view: what the dataset hands out.
        folder: where the images are.
        dataset: its config.
        where: how messages name it.

    Returns:
        A warning where images are of another size than the annotations list, for boxes are placed
        in the image as it is loaded.

    Raises:
        InputError: an image is missing, or cannot be read.
    """
    steps = [str(step.get('type')).rpartition('.')[2] for step in dataset.get('pipeline') or []]
    if 'LoadImageFromFile' not in steps or not view.file_names:
        return []
    step = dataset['pipeline'][steps.index('LoadImageFromFile')]
    if step.get('backend_args') or step.get('ignore_empty'):
        return []
    images = list(zip(view.file_names, view.sizes))
    if len(images) > _ALL_IMAGES:
        images = [images[0], *random.Random(0).sample(images, _SAMPLE)]
    paths = [osp.join(folder, name) for name, _ in images]
    with ThreadPoolExecutor(32) as pool:
        there = list(pool.map(osp.isfile, paths))
        if not all(there):
            looked = '' if len(paths) == len(view.file_names) else ' looked for'
            raise InputError(
                f'{where}: no image {paths[there.index(False)]}; {there.count(False)} of '
                f'{len(paths)} images{looked} are missing: put them there or set '
                f'{where}.data_prefix.img'
            )
        opened = random.Random(0).sample(range(len(images)), min(_OPENED, len(images)))
        turns = step.get('color_type', 'color') in ('color', 'grayscale')
        found = list(pool.map(lambda n: _size(paths[n], turns), opened))
    broken = [paths[n] for n, size in zip(opened, found) if not size]
    if broken:
        raise InputError(
            f'{where}: image {min(broken)} cannot be read, it is no picture or cut short '
            f'({len(broken)} such of {len(opened)} looked at); fetch it again'
        )
    other = [
        (paths[n], size, images[n][1])
        for n, size in zip(opened, found)
        if images[n][1] not in (None, size)
    ]
    if not other:
        return []
    path, size, listed = min(other)
    return [
        f'warning: {where}: {len(other)} of {len(opened)} images looked at are not of the size '
        f'listed, such as {path} with {size[0]} x {size[1]} pixels instead of {listed[0]:g} x '
        f'{listed[1]:g}: are the boxes those of the images as they are loaded?'
    ]


def _size(path: str, turns: bool) -> tuple[Any, ...]:
    """Return width and height as the image is loaded, turned as its EXIF says; () if it is none."""
    try:
        with Image.open(path) as image:
            turned = turns and image.getexif().get(_ORIENTATION, 1) > 4
            return image.size[::-1] if turned else image.size
    except Exception:  # what Pillow cannot read OpenCV may
        try:
            pixels = mmcv.imread(path)
        except Exception:
            return ()
    return () if pixels is None else pixels.shape[1::-1]
