"""What the plugin needs of the environment, said in one line when it is not there."""

from __future__ import annotations

from importlib import metadata

from lip_mmdet.errors import InputError

# MMDetection 3.x and what it runs on; the same ranges as in `setup.py`. The upper bounds are
# MMDetection's own: it refuses newer versions.
NEEDED = {
    'torch': '>=1.13',
    'mmcv': '>=2.0.0rc4,<2.2.0',
    'mmengine': '>=0.7.1,<1.0.0',
    'mmdet': '>=3.0.0,<3.4.0',
}


class DependencyError(InputError, ImportError):
    """A package is missing or of a version that the plugin cannot work with."""


def require(*packages: str) -> None:
    """Check installed versions before anything is imported.

    Args:
        packages: names among :data:`NEEDED`.

    Raises:
        DependencyError: the first package that is missing or out of range: what was found, what is
            needed and how to get it.
    """
    from packaging.specifiers import SpecifierSet

    for package in packages:
        needed = NEEDED[package]
        found = _version(package)
        if found is None:
            lite = _version('mmcv-lite') if package == 'mmcv' else None
            what = f'mmcv-lite {lite}, which has no operators' if lite else 'none'
            raise DependencyError(_message(package, needed, what))
        if not SpecifierSet(needed).contains(found, prereleases=True):
            raise DependencyError(_message(package, needed, f'{package} {found}'))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _message(package: str, needed: str, found: str) -> str:
    how = {
        'torch': 'install it as pytorch.org says for your machine',
        'mmcv': 'see the README, "Your own MMDetection environment"',
    }.get(package, f"pip install '{package}{needed}'")
    return f'lip_mmdet needs {package}{needed} and found {found}: {how}'
