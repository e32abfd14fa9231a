"""What a bug report needs: ``python -m lip_mmdet`` prints what is installed here.

Works with whatever is missing; exits with status 1 if something is.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from lip_mmdet.command_line import run_tool
from lip_mmdet.dependencies import NEEDED, Found, find
from lip_mmdet.version import __version__

OTHERS = (
    'numpy',
    'torchvision',
    'triton',
    'pycocotools',
    'opencv-python',
    'opencv-python-headless',
)


def main() -> None:
    found = {package: find(package) for package in NEEDED}
    libc = ' '.join(platform.libc_ver()).strip()
    show('lip_mmdet', f'{__version__}  {Path(__file__).resolve().parent}')
    show('Python', f'{platform.python_version()}  {sys.executable}')
    show('system', f'{platform.system()} {platform.release()} {platform.machine()}  {libc}')
    for package, what in found.items():
        show(package, '  '.join(filter(None, (what.version or 'none', what.family))))
    for name in OTHERS:
        try:
            show(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            show(name, '-')
    show('devices', devices(found['torch']))
    show('compilers', compilers())
    if not found['mmcv'].fault:
        from mmcv.ops import get_compiler_version, get_compiling_cuda_version

        show('operators', f'{get_compiler_version()}, CUDA {get_compiling_cuda_version()}')
    faults = [(package, what) for package, what in found.items() if what.fault]
    for package, what in faults:
        show('missing', f'{package}{NEEDED[package]}, found {what.fault}: {what.cure}')
    if faults:
        sys.exit(1)


def devices(torch_found: Found) -> str:
    cores = f'CPU with {os.cpu_count()} cores'
    if torch_found.version is None:
        return cores
    import torch

    cores += f', {torch.get_num_threads()} threads'
    if not torch.cuda.is_available():
        return f'{cores}; no GPU (torch built for CUDA {torch.version.cuda or "none"})'
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f'{cores}; {", ".join(gpus)} (CUDA {torch.version.cuda})'


def compilers() -> str:
    """Return the first line that each compiler says of itself; nvcc says its release last."""
    said = []
    for command, line in (('c++', 0), ('nvcc', -1)):
        if shutil.which(command):
            done = subprocess.run([command, '--version'], capture_output=True, text=True)
            lines = done.stdout.splitlines() or ['no answer']
            said.append(lines[line])
        else:
            said.append(f'no {command}')
    return '; '.join(said)


def show(name: str, what: str) -> None:
    print(f'{name:24}{what}')


if __name__ == '__main__':
    run_tool(main)
