"""What the plugin needs of the environment, said in one line when it is not there.

MMDetection comes in two families of packages: OpenMMLab's own and OneDL's maintained forks, which
are imported under the same names. So versions are read from what is imported; pip's metadata, which
a checkout on PYTHONPATH has none of, only tell the families apart.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import NamedTuple

from lip_mmdet.errors import InputError
from lip_mmdet.locations import tool_path

# MMDetection 3.x and what it runs on, in the order in which they import each other. MMDetection
# itself refuses an mmcv that is too new for it.
NEEDED = {
    'torch': '>=1.13',
    'mmengine': '>=0.7.1,<1',
    'mmcv': '>=2.0.0rc4,<3',
    'mmdet': '>=3.0.0,<4',
}
# The distributions that a name is imported from.
FAMILIES = {
    'OpenMMLab': {'mmengine': 'mmengine', 'mmcv': 'mmcv', 'mmdet': 'mmdet'},
    'OneDL': {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'},
}


class DependencyError(InputError, ImportError):
    """A package is missing or of a version that the plugin cannot work with."""


class Found(NamedTuple):
    """One package of the environment.

    Attributes:
        version: what it says of itself; None where it is not there or cannot be imported.
        family: a key of :data:`FAMILIES`, or '' where pip knows nothing of it.
        fault: why the plugin cannot work with it; '' if it can.
        cure: what to do about the fault, a command where one is enough.
    """

    version: str | None
    family: str
    fault: str = ''
    cure: str = ''


def require(*packages: str) -> None:
    """Check what is imported.

    Args:
        packages: names among :data:`NEEDED`.

    Raises:
        DependencyError: the first package that is missing, broken or out of range: what was found,
            what is needed and the command that installs it.
    """
    for package in packages:
        found = find(package)
        if found.fault:
            needed = f'{package}{NEEDED[package]}'
            raise DependencyError(f'lip_mmdet needs {needed} and found {found.fault}: {found.cure}')


def find(package: str) -> Found:
    """Import one of the packages in :data:`NEEDED` and say what it is."""
    # Imported here: the operators need torch alone.
    from packaging.specifiers import SpecifierSet

    family = _family(package)
    if importlib.util.find_spec(package) is None:
        return Found(None, family, 'none', _install(package))
    try:
        version = importlib.import_module(package).__version__
    except Exception as error:  # whatever a broken installation may end in
        cure = 'mend that first'
        if 'libGL' in str(error) or 'libxcb' in str(error):
            cure = (
                'pip install --force-reinstall opencv-python-headless, which needs no such library'
            )
        return Found(None, family, f'one that cannot be imported ({_reason(error)})', cure)
    fault = ''
    if not SpecifierSet(NEEDED[package]).contains(version, prereleases=True):
        fault = f'{package} {version}'
    elif package == 'mmcv':
        fault = _fault_of_operators()
    return Found(version, family, fault, _install(package) if fault else '')


def _fault_of_operators() -> str:
    if importlib.util.find_spec('mmcv._ext') is None:
        return 'one without operators (mmcv-lite is such a one)'
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        return f'one whose operators are built for another torch ({_reason(error)})'
    return ''


def _install(package: str) -> str:
    """Return the command that installs a package of :data:`NEEDED` beside what is there."""
    if package == 'torch':
        return 'install it as pytorch.org says for your machine'
    onedl = any(map(_installed, FAMILIES['OneDL'].values()))
    name = FAMILIES['OneDL' if onedl else 'OpenMMLab'][package]
    if package == 'mmcv':
        # pip alone would not build one with operators for a recent torch.
        return f'python {tool_path("build_mmcv.py")}'
    return f"pip install '{name}{NEEDED[package]}'"


def _family(package: str) -> str:
    for family, names in FAMILIES.items():
        if _installed(names.get(package, '')):
            return family
    return ''


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _reason(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
