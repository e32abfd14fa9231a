"""Build mmcv with its operators for the torch of the Python that runs this script.

    python tools/build_mmcv.py                      # mmcv 2.1.0, or OneDL's where its MMEngine is
    python tools/build_mmcv.py onedl-mmcv==2.3.6    # as pip would name it

There are no binaries of it for torch 2.2 and later, and building by pip alone fails: its setup.py
needs setuptools < 81, and C++20 for torch 2.14 and later, which it does not ask for. What the build
needs beside torch and a C++ compiler lies in a temporary folder: nothing else is installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

BUILT_WITH = ['ninja', 'setuptools<81', 'wheel']
# The first torch whose headers need C++20; mmcv's setup.py puts its own flag behind all others.
TORCH_OF_CXX20 = (2, 14)
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
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
    parser.add_argument('mmcv', nargs='?', help='what pip installs as mmcv')
    args = parser.parse_args()
    check_compiler()
    wanted = args.mmcv or ('onedl-mmcv' if installed('onedl-mmengine') else 'mmcv==2.1.0')
    torch = installed('torch')
    if torch is None:
        stop(f'{sys.executable} has no torch to build mmcv for: install it first')
    cuda = can_build_for_cuda()
    probe = PROBE.format(cuda=cuda)
    name, _, pin = wanted.partition('==')
    found = installed(name)
    if found and pin in ('', found) and works(probe):
        say('mmcv is there, with operators that work')
        return
    folder = Path(tempfile.mkdtemp(prefix='build-mmcv-'))
    run(*PIP, 'install', '-q', '--no-deps', '--target', str(folder / 'tools'), *BUILT_WITH)
    environment = build_environment(folder / 'tools', cuda)
    what = 'CPU and CUDA operators' if cuda else 'CPU operators'
    say(
        f'installing {wanted} with {what}: 5 to 10 minutes on 2 cores, seconds if pip has the wheel'
    )
    install = [*PIP, 'install', '-v', '--no-deps', '--no-build-isolation', '--force-reinstall']
    log = folder / 'build.log'
    if tuple(map(int, torch.split('.')[:2])) >= TORCH_OF_CXX20:
        build([*install, str(source_for_cxx20(wanted, folder, environment))], environment, log)
    else:
        build([*install, wanted], environment, log)
        if not works(probe):
            say('the wheel in the cache of pip is for another torch: building anew')
            build([*install, '--no-cache-dir', wanted], environment, log)
    if not works(probe):
        subprocess.run([sys.executable, '-c', probe])
        stop(f'mmcv was built but does not work, see above; the log is {log}')
    shutil.rmtree(folder)


def check_compiler() -> None:
    """Stop with one line if something to build with is missing that pip cannot install."""
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    for found, what, package in (
        (shutil.which('c++') or shutil.which('g++'), 'a C++ compiler', 'g++'),
        (header.is_file(), "Python's headers", 'python3-dev'),
    ):
        if not found:
            stop(f'{what} is needed to build mmcv: install it (on Debian, {package})')


def can_build_for_cuda() -> bool:
    """Whether there is a CUDA build of torch, a toolkit of its version, and a chip to build for."""
    program = (
        'import torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'print(torch.version.cuda or "", CUDA_HOME or "", torch.cuda.device_count(), sep="|")'
    )
    version, home, chips = output(sys.executable, '-c', program).splitlines()[-1].split('|')
    if not version or not home:
        return False
    if chips == '0' and 'TORCH_CUDA_ARCH_LIST' not in os.environ:
        say('no GPU is visible; to build for one, name its chip, as in TORCH_CUDA_ARCH_LIST=8.0')
        return False
    nvcc = Path(home) / 'bin' / 'nvcc'
    release = output(nvcc, '--version') if nvcc.is_file() else ''
    found = re.search(r'release (\d+)', release)
    if found and found.group(1) == version.split('.')[0]:
        return True
    say(f'the toolkit in {home} is not of CUDA {version}, which torch is built for')
    return False


def build_environment(tools: Path, cuda: bool) -> dict:
    """Return the environment variables of a build with what lies in ``tools``."""
    flags = f'{os.environ.get("CFLAGS", "")} -g0'  # halves the build, quarters its size
    environment = dict(
        os.environ,
        PATH=f'{tools / "bin"}{os.pathsep}{os.environ.get("PATH", "")}',
        PYTHONPATH=str(tools),
        MMCV_WITH_OPS='1',
        FORCE_CUDA='1' if cuda else '0',
        CFLAGS=flags.strip(),
        MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count() or 1)),
    )
    if not cuda:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    return environment


def source_for_cxx20(wanted: str, folder: Path, environment: dict) -> Path:
    """Unpack mmcv's source distribution and have its setup.py ask for C++20."""
    name = wanted.partition('==')[0]
    download = ['download', '-q', '--no-deps', '--no-build-isolation', '--no-binary', name]
    run(*PIP, *download, '-d', str(folder), wanted, env=environment)
    (archive,) = folder.glob('*.tar.gz')
    shutil.unpack_archive(str(archive), str(folder / 'source'))
    (source,) = (folder / 'source').iterdir()
    script = source / 'setup.py'
    text, changes = re.subn(r'-std=c\+\+1[47]', '-std=c++20', script.read_text(encoding='utf-8'))
    if not changes:
        stop(f'{wanted} names no C++ standard where one was expected ({script})')
    script.write_text(text, encoding='utf-8')
    return source


def build(command: list, environment: dict, log: Path) -> None:
    """Run pip and show how many of mmcv's files are compiled."""
    shown, started = -10, time.monotonic()
    with log.open('a') as file:
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
                left = (time.monotonic() - started) / max(done, 1) * (total - done) / 60
                say(f'  mmcv: {done} of {total} files compiled, about {left:.0f} minutes left')
        process.wait()
    if process.returncode:
        tail = '\n'.join(log.read_text().splitlines()[-15:])
        print(tail, file=sys.stderr)
        stop(f'building mmcv failed; the whole log is {log}')


def installed(distribution: str):
    """Return the version of an installed distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def works(program: str, python=sys.executable) -> bool:
    return (
        Path(python).is_file()
        and not subprocess.run([str(python), '-c', program], capture_output=True).returncode
    )


def output(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(*command: str, env=None, show=False) -> None:
    """Run a command; what it prints goes to the terminal if ``show``, else only when it fails."""
    done = subprocess.run(command, capture_output=not show, text=True, env=env)
    if done.returncode and show:
        sys.exit(done.returncode)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        stop(f'failed: {" ".join(command)}')


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
