"""Missing and wrong versions of what the plugin stands on, in one line at import."""

import subprocess
import sys

import pytest

from lip_mmdet import dependencies
from lip_mmdet.dependencies import DependencyError, require

SOUND = {'torch': '2.1.2', 'mmcv': '2.1.0', 'mmengine': '0.10.7', 'mmdet': '3.3.0'}


def pretend(monkeypatch, **versions):
    monkeypatch.setattr(dependencies, '_version', {**SOUND, **versions}.get)


@pytest.mark.parametrize('torch', ['1.13.1', '2.0.1+cu118', '2.1.2', '2.13.0+cpu', '2.15.0'])
def test_versions_in_range_pass(monkeypatch, torch):
    pretend(monkeypatch, torch=torch)
    require(*SOUND)


@pytest.mark.parametrize(
    ('versions', 'message'),
    [
        (dict(mmcv=None), 'needs mmcv>=2.0.0rc4,<2.2.0 and found none'),
        (dict(mmcv='2.2.0'), 'needs mmcv>=2.0.0rc4,<2.2.0 and found mmcv 2.2.0'),
        (dict(mmcv='1.7.2'), 'found mmcv 1.7.2'),
        (dict({'mmcv': None, 'mmcv-lite': '2.1.0'}), 'mmcv-lite 2.1.0, which has no operators'),
        (dict(mmdet='2.28.2'), 'needs mmdet>=3.0.0,<3.4.0 and found mmdet 2.28.2'),
        (dict(torch=None), 'needs torch>=1.13 and found none'),
    ],
)
def test_what_is_found_and_what_is_needed(monkeypatch, versions, message):
    pretend(monkeypatch, **versions)
    with pytest.raises(DependencyError) as error:
        require(*SOUND)
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert isinstance(error.value, ImportError)


HIDE_MMDET = """
from importlib import metadata
original = metadata.version
def version(name):
    if name == 'mmdet':
        raise metadata.PackageNotFoundError(name)
    return original(name)
metadata.version = version
"""


def run(program):
    return subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)


def test_the_plugin_says_it_at_import():
    done = run(HIDE_MMDET + 'import lip_mmdet.plugin')
    assert done.returncode == 1
    assert 'lip_mmdet needs mmdet>=3.0.0,<3.4.0 and found none' in done.stderr.splitlines()[-1]


def test_light_parts_import_little():
    program = 'import sys, lip_mmdet{}; print([m for m in {} if m in sys.modules])'
    done = run(program.format('.evaluation', "('torch', 'mmcv', 'mmengine', 'mmdet')"))
    assert done.stdout.strip() == '[]'
    done = run(program.format('.ops', "('mmcv', 'mmengine', 'mmdet')"))
    assert done.stdout.strip() == '[]'
