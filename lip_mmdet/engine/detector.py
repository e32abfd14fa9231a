"""A detector with all of its weights, and the images to run it on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, Iterator

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from lip_mmdet.engine.checkpoint_fit import checkpoint_classes, expect_fit
from lip_mmdet.engine.config_checks import config_classes
from lip_mmdet.engine.safe_loading import check_checkpoint
from lip_mmdet.errors import InputError

_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'}


def load_detector(config: Config, checkpoint: str | os.PathLike, device: str = 'cpu') -> nn.Module:
    """Build a detector, load all of its weights, and return it ready to detect.

    MMDetection's ``init_detector`` takes weights that fit in part, too.

    Args:
        config: of the detector.
        checkpoint: file of its weights.
        device: as torch names it.

    Raises:
        InputError: the checkpoint is unusable, or fits the config in part; there is no such device.
    """
    check_checkpoint(checkpoint)
    init_default_scope(config.get('default_scope') or 'mmdet')
    model = MODELS.build(config.model)
    check_fit = expect_fit(model, checkpoint)
    loaded = load_checkpoint(model, str(checkpoint), map_location='cpu')
    check_fit()
    classes = checkpoint_classes(loaded) or config_classes(config, 'test_dataloader')
    model.dataset_meta = dict(classes=classes or ())
    model.cfg = config
    try:
        return model.to(device).eval()
    except (AssertionError, RuntimeError) as error:
        raise InputError(f'no device {device!r} here: {error}') from error


def image_files(paths: Iterable[str | os.PathLike]) -> Iterator[Path]:
    """Yield the images among files and folders, in order of name; a file is taken at its word.

    Raises:
        InputError: one of them does not exist, or a folder holds no images.
    """
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
            if not found:
                raise InputError(f'{path} holds no images ({", ".join(sorted(_SUFFIXES))})')
            yield from found
        elif path.is_file():
            yield path
        else:
            raise InputError(f'{path} does not exist; name image files, or folders of them')
