"""Set up the virtual environment that `make demo` and `make test` run in.

Needs Python 3.11 or 3.12 with venv, a C++ compiler, and nothing installed: this script runs on the
standard library alone. What it has done it records in the environment, so a second call returns at
once; a change of the pins or of the wanted torch does it again.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
TORCH = 'torch==2.13.0'
MMCV = 'mmcv==2.1.0'
VERSION = sys.version_info[:2]
PROBE = """
import torch, mmcv.ops
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]])
assert len(mmcv.ops.nms(boxes, torch.tensor([.9, .8]), .5)[1]) == 1
if {cuda}:
    from mmcv.ops import get_compiling_cuda_version
    assert get_compiling_cuda_version() != 'not available', 'built without CUDA operators'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('venv', type=Path, help='folder of the environment')
    parser.add_argument('--torch', help=f'what pip installs as torch (default: {TORCH})')
    args = parser.parse_args()
    # What was asked for once holds for later calls that do not ask.
    choice = args.venv / '.lip_mmdet-torch'
    torch = args.torch or (choice.read_text() if choice.is_file() else TORCH)
    stamp = args.venv / '.lip_mmdet'
    wanted = fingerprint(torch)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    check_machine()
    started = time.monotonic()
    python = args.venv / 'bin' / 'python'
    if not works(python, f'import pip, sys; assert sys.version_info[:2] == {tuple(VERSION)}'):
        say(f'making {args.venv}')
        run(sys.executable, '-m', 'venv', '--clear', str(args.venv))
    choice.write_text(torch)
    pip = [str(python), '-m', 'pip', '--disable-pip-version-check']
    say(f'installing {torch}: a download of 0.2 GB for a CPU build, some GB for a CUDA build')
    run(*pip, 'install', '-q', *torch.split())
    say('installing the pinned packages')
    run(*pip, 'install', '-q', '--no-deps', '-r', str(REQUIREMENTS / 'build.txt'))
    run(*pip, 'install', '-q', '--no-deps', '-r', str(REQUIREMENTS / 'runtime.txt'))
    install_mmcv(python, pip)
    say('installing lip_mmdet in editable mode')
    run(*pip, 'install', '-q', '--no-deps', '--no-build-isolation', '-e', str(ROOT))
    stamp.write_text(wanted)
    say(f'ready after {minutes(time.monotonic() - started)}')


def fingerprint(torch: str) -> str:
    """Tell apart environments that were made from different pins."""
    digest = hashlib.sha256(f'{torch} {MMCV} {ROOT} {VERSION}'.encode())
    for path in sorted(REQUIREMENTS.glob('*.txt')):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_machine() -> None:
    """Stop with one line if something is missing that pip cannot install."""
    if VERSION not in ((3, 11), (3, 12)):
        found = '.'.join(map(str, VERSION))
        stop(
            f'the pinned packages need Python 3.11 or 3.12, this is {found}: name another with '
            'make PYTHON=..., such as PYTHON=$(uv python find 3.11)'
        )
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    for found, what, package in (
        (shutil.which('c++') or shutil.which('g++'), 'a C++ compiler', 'g++'),
        (header.is_file(), "Python's headers", 'python3-dev'),
        (have('ensurepip'), "Python's venv module", 'python3-venv'),
    ):
        if not found:
            stop(f'{what} is needed to build mmcv: install it (on Debian, {package})')


def have(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def install_mmcv(python: Path, pip: list) -> None:
    """Build mmcv against the installed torch, or take the wheel that pip built earlier."""
    cuda = can_build_for_cuda(python)
    environment = dict(
        os.environ,
        MMCV_WITH_OPS='1',
        FORCE_CUDA='1' if cuda else '0',
        CFLAGS=f'{os.environ.get("CFLAGS", "")} -g0'.strip(),  # halves the build, quarters its size
        MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count() or 1)),
    )
    if not cuda:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    probe = PROBE.format(cuda=cuda)
    what = 'CPU and CUDA operators' if cuda else 'CPU operators'
    say(f'installing {MMCV} with {what}: 5 to 10 minutes on 2 cores, seconds if pip has the wheel')
    command = [*pip, 'install', '-v', '--no-deps', '--no-build-isolation']
    build(command + [MMCV], environment)
    if not works(python, probe):
        say('the wheel in the cache of pip is for another torch: building anew')
        build(command + ['--no-cache-dir', '--force-reinstall', MMCV], environment)
        if not works(python, probe):
            subprocess.run([str(python), '-c', probe])
            stop('mmcv was built but does not work, see above')


def can_build_for_cuda(python: Path) -> bool:
    """Whether torch is a CUDA build and there is a toolkit of its version to build mmcv with."""
    program = (
        'import torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'print(torch.version.cuda or "", CUDA_HOME or "", sep="|")'
    )
    version, home = output(python, '-c', program).splitlines()[-1].split('|')
    if not version or not home:
        return False
    nvcc = Path(home) / 'bin' / 'nvcc'
    release = output(nvcc, '--version') if nvcc.is_file() else ''
    found = re.search(r'release (\d+)', release)
    if found and found.group(1) == version.split('.')[0]:
        return True
    say(f'the toolkit in {home} is not of CUDA {version}, which torch is built for')
    return False


def build(command: list, environment: dict) -> None:
    """Run pip and show how many of mmcv's files are compiled."""
    log = ROOT / 'work_dirs' / 'bootstrap-mmcv.log'
    log.parent.mkdir(exist_ok=True)
    shown = -10
    with log.open('w') as file:
        process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            errors='replace',
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout:
            file.write(line)
            step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            if not step:
                continue
            done, total = map(int, step.groups())
            percent = 100 * done // total
            if percent >= shown + 10:
                shown = percent
                say(f'  mmcv: {done} of {total} files compiled ({percent} %)')
        process.wait()
    if process.returncode:
        tail = '\n'.join(log.read_text().splitlines()[-15:])
        print(tail, file=sys.stderr)
        stop(f'building mmcv failed; the whole log is {log}')


def works(python: Path, program: str) -> bool:
    if not python.is_file():
        return False
    return subprocess.run([str(python), '-c', program], capture_output=True).returncode == 0


def output(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(*command: str) -> None:
    # Warnings of pip go to a terminal's user only when something fails.
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        stop(f'failed: {" ".join(command)}')


def minutes(seconds: float) -> str:
    return f'{seconds / 60:.1f} minutes' if seconds >= 60 else f'{seconds:.0f} seconds'


def say(line: str) -> None:
    print(f'[set-up] {line}', flush=True)


def stop(line: str) -> None:
    print(f'error: {line}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        stop('interrupted; run the same command again to go on')
