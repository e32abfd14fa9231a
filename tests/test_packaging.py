"""The wheel carries the configs, and a project can inherit from them without a checkout."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lip_mmdet import config_path
from lip_mmdet.errors import InputError

ROOT = Path(__file__).resolve().parent.parent

PROJECT_CONFIG = """
_base_ = __import__('lip_mmdet').config_path('lip/faster-rcnn_lip-r50_fpn_1x_coco.py')
model = dict(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))
"""

PROGRAM = """
import lip_mmdet
from mmengine.config import Config
config = Config.fromfile('project.py')
print(lip_mmdet.__file__)
print(config.model.backbone.type, config.model.backbone.depth, config.train_cfg.max_epochs)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # A copy: building leaves folders beside setup.py.
    source = folder / 'source'
    subprocess.run(['git', 'checkout-index', '-a', f'--prefix={source}/'], cwd=ROOT, check=True)
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*command, '-w', str(folder), str(source)], check=True, capture_output=True)
    (path,) = folder.glob('*.whl')
    return path


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='needs the git checkout')
def test_the_wheel_carries_configs_tools_and_index(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    committed = subprocess.run(
        ['git', 'ls-files', 'configs'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {f'lip_mmdet/.mim/{name}' for name in committed} <= names
    for name in ('model-index.yml', 'tools/train.py', 'tools/eval_coco.py'):
        assert f'lip_mmdet/.mim/{name}' in names
    assert not [n for n in names if n.startswith(('tests/', 'tools/', 'configs/'))]


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='needs the git checkout')
def test_pip_is_not_asked_for_what_a_fork_may_have_replaced(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith('.dist-info/METADATA')]
        lines = archive.read(name).decode().splitlines()
    needed = [line[15:] for line in lines if line.startswith('Requires-Dist: ')]
    always = [line for line in needed if 'extra ==' not in line]
    assert 'torch>=1.13' in always
    assert not [line for line in always if line.startswith('mm')]
    by_mim = sorted(line.split('<')[0] for line in needed if 'extra == "mim"' in line)
    assert [re.split('[<>=]', line)[0] for line in by_mim] == ['mmcv', 'mmdet', 'mmengine']


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='needs the git checkout')
def test_a_project_inherits_from_the_installed_config(wheel, tmp_path):
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / 'project.py').write_text(PROJECT_CONFIG)
    done = subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(site)!r})\n{PROGRAM}'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where, what = done.stdout.splitlines()[-2:]
    assert site in Path(where).parents
    assert what == 'LIPResNet 18 12'


def test_an_unknown_config_names_those_there_are():
    with pytest.raises(InputError, match=r'lip/faster-rcnn_lip-r50_fpn_1x_coco\.py'):
        config_path('lip/nowhere.py')
