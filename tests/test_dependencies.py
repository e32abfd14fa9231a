"""Missing, broken and too old versions of what the plugin stands on, in one line at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lip_mmdet.dependencies import NEEDED, DependencyError

ROOT = Path(__file__).resolve().parent.parent
SOUND = {'torch': '2.1.2', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0'}
ONEDL = {'torch': '2.13.0+cpu', 'mmengine': '0.10.12', 'mmcv': '2.3.6', 'mmdet': '3.5.1'}
OLDEST = {'torch': '1.13.1', 'mmengine': '0.7.1', 'mmcv': '2.0.0rc4', 'mmdet': '3.0.0'}


def require(folder, versions, extra='', **sources):
    """Check an environment of stand-ins that pip knows nothing of; return what it says."""
    for package, version in versions.items():
        if version is not None:
            (folder / package).mkdir()
            source = sources.get(package, f'__version__ = {version!r}')
            (folder / package / '__init__.py').write_text(source)
    (folder / 'mmcv').mkdir(exist_ok=True)
    if 'mmcv' not in sources:
        (folder / 'mmcv' / '_ext.py').write_text(sources.get('operators', ''))
    program = f'{extra}\nfrom lip_mmdet.dependencies import require; require(*{tuple(NEEDED)})'
    # -S and a path of two packages: nothing that is installed is seen.
    import packaging

    site = folder / 'site'
    site.mkdir()
    (site / 'packaging').symlink_to(Path(packaging.__file__).parent)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (folder, ROOT, site))))
    done = subprocess.run(
        [sys.executable, '-S', '-c', program], env=environment, capture_output=True, text=True
    )
    return done.stderr.splitlines()[-1] if done.returncode else ''


@pytest.mark.parametrize('versions', [SOUND, ONEDL, OLDEST], ids=['OpenMMLab', 'OneDL', 'oldest'])
def test_checkouts_in_range_pass(tmp_path, versions):
    assert require(tmp_path, versions) == ''


MMCV = '/tools/build_mmcv.py'
FAULTS = {
    'mmdet missing': (
        dict(mmdet=None),
        {},
        "needs mmdet>=3.0.0,<4 and found none: pip install 'mmdet>=3.0.0,<4'",
    ),
    'mmdet 2': (dict(mmdet='2.28.2'), {}, 'and found mmdet 2.28.2: pip install'),
    'mmcv 1': (dict(mmcv='1.7.2'), {}, 'needs mmcv>=2.0.0rc4,<3 and found mmcv 1.7.2: python /'),
    'torch missing': (dict(torch=None), {}, 'needs torch>=1.13 and found none: install it as'),
    'mmdet refuses mmcv': (
        {},
        dict(mmdet="raise AssertionError('MMCV==2.2.0 is used but incompatible')"),
        'found one that cannot be imported (AssertionError: MMCV==2.2.0 is used but incompatible)',
    ),
    'no libGL': (
        {},
        dict(mmcv="raise ImportError('libGL.so.1: cannot open shared object file')"),
        'opencv-python-headless',
    ),
    'another torch': (
        {},
        dict(operators="raise ImportError('undefined symbol: _ZN3c10')"),
        'built for another torch (ImportError: undefined symbol: _ZN3c10): python ',
    ),
    'mmcv-lite': (
        {},
        dict(mmcv="__version__ = '2.1.0'"),
        'found one without operators (mmcv-lite is such a one): python ',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_what_is_found_what_is_needed_and_the_command(tmp_path, fault):
    versions, sources, message = FAULTS[fault]
    line = require(tmp_path, {**SOUND, **versions}, **sources)
    assert line.startswith('lip_mmdet.dependencies.DependencyError: lip_mmdet needs ')
    assert message in line
    assert issubclass(DependencyError, ImportError)


def test_a_family_is_completed_by_its_own_packages(tmp_path):
    metadata = tmp_path / 'onedl_mmengine-0.10.12.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Name: onedl-mmengine\nVersion: 0.10.12\n')
    line = require(tmp_path, {**ONEDL, 'mmdet': None})
    assert line.endswith("pip install 'onedl-mmdetection>=3.0.0,<4'")


def test_the_plugin_says_it_at_import(tmp_path):
    (tmp_path / 'mmdet.py').write_text("__version__ = '2.28.2'")
    environment = dict(os.environ, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    for command in (['-c', 'import lip_mmdet.plugin'], [ROOT / 'tools' / 'train.py', 'any.py']):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode in (1, 2)
        assert 'lip_mmdet needs mmdet>=3.0.0,<4 and found mmdet' in done.stderr.splitlines()[-1]


def test_a_bug_report_tells_versions_and_families():
    import mmdet
    import torch

    done = subprocess.run([sys.executable, '-m', 'lip_mmdet'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert said['torch'].startswith(torch.__version__)
    assert said['mmdet'].startswith(mmdet.__version__)
    assert 'CPU with' in said['devices'] and 'missing' not in said


def test_light_parts_import_little():
    program = 'import sys, lip_mmdet{}; print([m for m in {} if m in sys.modules])'
    for part, heavy in (('.evaluation', 'torch'), ('.ops', 'mmcv'), ('.dependencies', 'torch')):
        modules = (heavy, 'mmcv', 'mmengine', 'mmdet')
        done = subprocess.run(
            [sys.executable, '-c', program.format(part, modules)], capture_output=True, text=True
        )
        assert done.stdout.strip() == '[]'
