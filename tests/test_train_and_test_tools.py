"""MMDetection's commands with the plugin: train, test, resume, two processes, and bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import mmengine
import pytest
import torch
from packaging.version import parse
from tiny_detector import run_tool, write_tiny_project

TORCHRUN = ('-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=29513')


PRETRAINED = """
_base_ = './tiny.py'
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='weights.pth'))
)
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A tiny project with one epoch trained."""
    folder = tmp_path_factory.mktemp('project')
    write_tiny_project(folder)
    (folder / 'pretrained.py').write_text(PRETRAINED)
    done = run_tool('train.py', 'tiny.py', '--work-dir', 'run', folder=folder, launcher=())
    (folder / 'terminal.txt').write_text(done.stdout + done.stderr)
    return folder


def scores(done):
    """The six AP figures that a run logged last."""
    return re.findall(r'coco/bbox_mAP\w*: (\S+)', done.stdout + done.stderr)[-6:]


def test_training_leaves_a_checkpoint_and_scores(project):
    assert (project / 'run' / 'epoch_1.pth').is_file()
    log = next((project / 'run').glob('*/vis_data/scalars.json')).read_text()
    entries = [json.loads(line) for line in log.splitlines()]
    assert any('coco/bbox_mAP_s' in entry for entry in entries)


def test_the_terminal_shows_what_matters(project):
    terminal = (project / 'terminal.txt').read_text()
    (log,) = (project / 'run').glob('*/*.log')
    for dump in ('System environment:', '- INFO - Config:', 'Hooks will be executed'):
        assert dump in log.read_text()
        assert dump not in terminal
    assert f'environment, config and hooks: {log}' in terminal
    assert 'pkg_resources' not in terminal
    assert 'Epoch(train)' in terminal and 'coco/bbox_mAP' in terminal
    assert len(terminal.splitlines()) < 100


def test_testing_loads_what_the_runner_saved(project):
    done = run_tool('test.py', 'tiny.py', 'run/epoch_1.pth', '--work-dir', 'test', folder=project)
    assert len(scores(done)) == 6


def test_two_processes_score_as_one(project):
    args = ('tiny.py', 'run/epoch_1.pth', '--work-dir', 'test')
    # A low threshold, for a detector of two steps is sure of nothing.
    options = ('--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0')
    one = run_tool('test.py', *args, *options, folder=project)
    two = run_tool(
        'test.py', *args, '--launcher', 'pytorch', *options, folder=project, launcher=TORCHRUN
    )
    assert scores(one) == scores(two)
    assert len(scores(one)) == 6
    assert any(float(score) > 0 for score in scores(one))


def test_training_in_two_processes_and_resuming(project):
    options = ('--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=9')
    args = ('tiny.py', '--work-dir', 'two')
    run_tool('train.py', *args, '--launcher', 'pytorch', folder=project, launcher=TORCHRUN)
    assert (project / 'two' / 'epoch_1.pth').is_file()
    done = run_tool('train.py', *args, '--resume', *options, folder=project)
    assert 'resumed epoch: 1' in done.stdout + done.stderr
    resumed = torch.load(project / 'two' / 'epoch_2.pth', weights_only=False)
    assert resumed['meta']['epoch'] == 2


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('test', ['run/epoch_1.pth']),
        ('train', ['--resume', 'run/epoch_1.pth', '--cfg-options', 'train_cfg.max_epochs=2']),
    ],
)
def test_mmdetections_own_commands_load_the_checkpoint(project, name, arguments):
    """All a project of someone else's does is name the plugin in its config."""
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    if not script.is_file():
        pytest.skip('mmdet is installed from a checkout')
    command = [sys.executable, str(script), 'tiny.py', *arguments, '--work-dir', 'own']
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(scores(done)) == 6


class ForeignCode:
    """Pickles as a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'), reason='needs torch 2.6'
)
def test_a_checkpoint_with_foreign_code_is_refused(project):
    witness = project / 'witness'
    torch.save(dict(state_dict={}, extra=ForeignCode(witness)), project / 'foreign.pth')
    done = run_tool('test.py', 'tiny.py', 'foreign.pth', folder=project, check=False)
    assert_one_line(done, 'foreign.pth was refused')
    assert not witness.exists()
    torch.load(project / 'foreign.pth', weights_only=False)
    assert witness.exists()  # it would have run


BAD_INPUT = {
    'no config': (('train.py', 'nowhere.py'), 'no config at nowhere.py'),
    'no checkpoint': (('test.py', 'tiny.py', 'nowhere.pth'), 'no checkpoint at nowhere.pth'),
    'cut checkpoint': (('test.py', 'tiny.py', 'cut.pth'), 'cut.pth is not a whole'),
    'cut checkpoint to resume': (('train.py', 'tiny.py', '--resume', 'cut.pth'), 'cut.pth is not'),
    'cut checkpoint to go on from': (
        ('train.py', 'tiny.py', '--work-dir', 'broken', '--resume'),
        'broken has no whole checkpoint',
    ),
    'cut ImageNet weights': (
        (
            'train.py',
            'pretrained.py',
            '--cfg-options',
            'model.backbone.init_cfg.checkpoint=cut.pth',
        ),
        'cut.pth is not a whole',
    ),
    'config that is not Python': (('train.py', 'cut.py'), 'cut.py cannot be read'),
    'config without its base': (('train.py', 'orphan.py'), 'orphan.py cannot be read'),
    'depth': (
        ('train.py', 'tiny.py', '--cfg-options', 'model.backbone.depth=19'),
        'LIPResNet has no depth 19',
    ),
    'missing weights': (
        ('train.py', 'pretrained.py'),
        'no ImageNet weights at weights.pth',
    ),
    'option that does not fit': (
        ('train.py', 'tiny.py', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained'),
        '--cfg-options does not fit tiny.py',
    ),
}


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_is_one_line(project, case):
    (name, *args), message = BAD_INPUT[case]
    whole = (project / 'run' / 'epoch_1.pth').read_bytes()
    (project / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    (project / 'broken').mkdir(exist_ok=True)
    (project / 'broken' / 'last_checkpoint').write_text(str(project / 'cut.pth'))
    (project / 'cut.py').write_text('model = dict(')
    (project / 'orphan.py').write_text("_base_ = './nowhere.py'")
    done = run_tool(name, *args, folder=project, check=False)
    assert_one_line(done, message)
    assert (project / 'run' / 'epoch_1.pth').read_bytes() == whole


def assert_one_line(done, message):
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(errors) == 1
    assert message in errors[0]
    stderr = done.stderr
    if parse(mmengine.__version__) < parse('0.8'):
        # MMEngine deleted the copy of a config it cannot read twice, of which Python says so.
        stderr = stderr.partition('Exception ignored in: <function _TemporaryFileCloser')[0]
    assert 'Traceback' not in stderr


def test_a_joined_process_ends_with_status_0_and_its_exit_handlers(tmp_path):
    """gloo's threads abort some processes that end in order; flushing and handlers are kept."""
    code = f"""
import atexit
import torch.distributed
from lip_mmdet.command_line import run_tool

def main():
    torch.distributed.init_process_group(
        'gloo', init_method='file://{tmp_path.as_posix()}/store', rank=0, world_size=1
    )
    atexit.register(print, 'handled')
    print('done')

run_tool(main)
print('ended in order')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split('\n') == ['done', 'handled', '']
