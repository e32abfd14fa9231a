"""Where the installed package keeps the files that are not Python modules."""

from __future__ import annotations

from pathlib import Path

from lip_mmdet.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def config_path(name: str = '') -> str:
    """Return the path of a config that ships with the plugin, in a wheel as in a checkout.

    MMEngine's ``_base_ = 'mmdet::...'`` knows only OpenMMLab's own packages; a project of yours
    inherits from a config of this one with

    ``_base_ = __import__('lip_mmdet').config_path('lip/faster-rcnn_lip-r50_fpn_1x_coco.py')``

    Args:
        name: path below ``configs/``, such as ``'lip/faster-rcnn_lip-r50_fpn_1x_coco.py'``;
            empty for the folder itself.

    Raises:
        InputError: no config of that name; the message lists the folder's configs.
    """
    root = _folder('configs')
    path = root / name
    if not path.exists():
        known = sorted(p.relative_to(root).as_posix() for p in root.glob('[!_]*/*.py'))
        raise InputError(f'no config {name!r} in {root}; there are {", ".join(known)}')
    return str(path)


def tool_path(name: str) -> str:
    """Return the path of a script that ships with the plugin, such as ``'train.py'``."""
    return str(_folder('tools') / name)


def _folder(name: str) -> Path:
    # A wheel carries it in `.mim`, as OpenMMLab's packages do; a checkout has it beside the
    # package.
    bundled = _PACKAGE / '.mim' / name
    return bundled if bundled.is_dir() else _PACKAGE.parent / name
