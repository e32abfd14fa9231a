"""Build one of the environments that the README names in a folder, and run the tests there.

    python3.11 tools/try_environment.py onedl ../onedl
    python3.8 tools/try_environment.py oldest ../oldest tests/test_configs.py

What follows the folder goes to pytest. The folder is kept: a second call only runs the tests.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from bootstrap import ROOT, Environment, pinned, read_pins, set_up, stop

RECENT = ((3, 11), (3, 12))


def change(packages: tuple, *new: str, without: tuple = ()) -> tuple:
    """Return pins with some replaced or added by ``new``, and some left out."""
    pins = {pin.partition('==')[0]: pin for pin in packages}
    pins.update((pin.partition('==')[0], pin) for pin in new)
    return tuple(pin for name, pin in pins.items() if name not in without)


def environments() -> dict:
    """Return each environment by its name, with the versions of Python that it exists for."""
    openmmlab = pinned()
    numpy1 = change(openmmlab.packages, 'numpy==1.26.4', 'opencv-python-headless==4.11.0.86')
    onedl = change(
        openmmlab.packages,
        'onedl-mmengine==0.10.12',
        'onedl-mmdetection==3.5.1',
        # Its mmdet.datasets imports imaug, and that the rest.
        'imageio==2.38.1',
        'imaug==0.4.3',
        'lazy-loader==0.6',
        'scikit-image==0.26.0',
        without=('mmengine', 'mmdet'),
    )
    pretraining = change(
        openmmlab.packages,
        'mmpretrain==1.2.0',
        # What it imports.
        'click==8.5.1',
        'colorama==0.4.6',
        'einops==0.8.2',
        'importlib-metadata==8.5.0',
        'Markdown==3.5.2',
        'mat4py==0.6.0',
        'model-index==0.1.11',
        'ordered-set==4.1.0',
        'torchvision==0.28.0',
        'zipp==4.1.2',
    )
    oldest = Environment('torch==1.13.1', 'mmcv==2.0.0rc4', read_pins('oldest.txt'))
    return {
        'openmmlab': (openmmlab, RECENT),
        'openmmlab-torch-2.1': (
            openmmlab._replace(torch='torch==2.1.2', packages=numpy1),
            ((3, 11),),
        ),
        'openmmlab-torch-2.14': (openmmlab._replace(torch='torch==2.14.1'), RECENT),
        'onedl': (openmmlab._replace(mmcv='onedl-mmcv==2.3.6', packages=onedl), RECENT),
        'oldest': (oldest, ((3, 8),)),
        'pretraining': (openmmlab._replace(packages=pretraining), RECENT),
    }


def main() -> None:
    known = environments()
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage='%(prog)s NAME FOLDER [arguments of pytest]'
    )
    parser.add_argument('name', choices=known, metavar='NAME', help=', '.join(known))
    parser.add_argument('folder', type=Path)
    args, tests = parser.parse_known_args()
    folder = args.folder.absolute()
    set_up(folder, *known[args.name])
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    python = str(folder / 'bin' / 'python')
    sys.stdout.flush()
    done = subprocess.run([python, '-m', 'pytest', '-q', '-rs', *tests], cwd=ROOT, env=environment)
    sys.exit(done.returncode)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop('interrupted; run the same command again to go on')
