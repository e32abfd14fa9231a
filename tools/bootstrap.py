"""Set up the virtual environment that `make demo` and `make test` run in.

Needs Python 3.11 or 3.12 with venv, a C++ compiler, and nothing installed: this script runs on the
standard library alone. What it has done it records in the environment, so a second call returns at
once; a change of the pins or of the wanted torch does it again.
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

from build_mmcv import PIP, check_compiler, run, say, stop, works

ROOT = Path(__file__).resolve().parent.parent
VERSION = sys.version_info[:2]


class Environment(NamedTuple):
    """What is installed: the builds of torch and mmcv, and the packages, none with dependencies."""

    torch: str
    mmcv: str
    packages: tuple


def read_pins(name: str) -> tuple:
    """Return the packages that a file below ``requirements/`` lists."""
    lines = (ROOT / 'requirements' / name).read_text(encoding='utf-8').splitlines()
    return tuple(line for line in lines if line and not line.startswith('#'))


def pinned() -> Environment:
    """Return what `make` runs on."""
    return Environment('torch==2.13.0', 'mmcv==2.1.0', read_pins('runtime.txt'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('venv', type=Path, help='folder of the environment')
    parser.add_argument('--torch', help=f'what pip installs as torch (default: {pinned().torch})')
    args = parser.parse_args()
    # What was asked for once holds for later calls that do not ask.
    choice = args.venv / '.lip_mmdet-torch'
    torch = args.torch or (choice.read_text() if choice.is_file() else pinned().torch)
    set_up(args.venv, pinned()._replace(torch=torch), pythons=((3, 11), (3, 12)))
    choice.write_text(torch)


def set_up(venv: Path, environment: Environment, pythons: tuple) -> None:
    """Make ``venv`` hold ``environment`` and this project; return at once if it does.

    Args:
        venv: folder of the virtual environment, made if it is not there.
        environment: what is installed.
        pythons: the versions of Python that the packages exist for.
    """
    stamp = venv / '.lip_mmdet'
    wanted = hashlib.sha256(f'{environment} {ROOT} {VERSION}'.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    check_machine(pythons)
    started = time.monotonic()
    python = str(venv / 'bin' / 'python')
    if not works(f'import pip, sys; assert sys.version_info[:2] == {VERSION}', python):
        say(f'making {venv}')
        run(sys.executable, '-m', 'venv', '--clear', str(venv))
    pip = [python, *PIP[1:], 'install', '-q']
    say(f'installing {environment.torch}: 0.2 GB for a CPU build, some GB for a CUDA build')
    # With pip's own bars, for this can take minutes.
    run(*(part for part in pip if part != '-q'), *environment.torch.split(), show=True)
    say('installing the pinned packages')
    run(*pip, '--no-deps', *environment.packages)
    run(python, str(ROOT / 'tools' / 'build_mmcv.py'), environment.mmcv, show=True)
    say('installing lip_mmdet in editable mode')
    run(*pip, '--no-deps', '--no-build-isolation', '-e', str(ROOT))
    stamp.write_text(wanted)
    say(f'ready after {minutes(time.monotonic() - started)}')


def check_machine(pythons: tuple) -> None:
    """Stop with one line if something is missing that pip cannot install."""
    if VERSION not in pythons:
        known = ' or '.join('.'.join(map(str, version)) for version in pythons)
        found = '.'.join(map(str, VERSION))
        stop(
            f'the pinned packages need Python {known}, this is {found}: name another with '
            f'make PYTHON=..., such as PYTHON=$(uv python find {".".join(map(str, pythons[0]))})'
        )
    check_compiler()
    if not have('ensurepip'):
        stop("Python's venv module is needed: install it (on Debian, python3-venv)")


def have(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def minutes(seconds: float) -> str:
    return f'{seconds / 60:.1f} minutes' if seconds >= 60 else f'{seconds:.0f} seconds'


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop('interrupted; run the same command again to go on')
