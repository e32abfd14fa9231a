"""A checkpoint goes into the model and the classes that it was trained with, or nowhere."""

import json
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from tiny_detector import run_tool, write_tiny_project

from lip_mmdet.engine.checkpoint_fit import checkpoint_classes

OTHERS = {
    'plain.py': "_base_ = './tiny.py'\nmodel = dict(backbone=dict(type='ResNet'))\n",
    'swapped.py': "_base_ = './tiny.py'\n_d = dict(dataset=dict(metainfo=dict(classes="
    "('triangle', 'circle', 'square'))))\ntrain_dataloader = _d\nval_dataloader = _d\n"
    'test_dataloader = _d\n',
}


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    write_tiny_project(folder)
    for name, text in OTHERS.items():
        (folder / name).write_text(text)
    run_tool('train.py', 'tiny.py', '--work-dir', 'run', folder=folder)
    state = torch.load(folder / 'run' / 'epoch_1.pth', weights_only=False)
    for name, classes in (
        ('case', ('Square', 'circle', 'tri angle')),
        ('order', ('circle', 'square', 'triangle')),
        ('names', ('cat', 'dog', 'owl')),
    ):
        state['meta']['dataset_meta'] = dict(classes=classes)
        torch.save(state, folder / f'{name}.pth')
    return folder


def refused(done, *parts):
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == 2 and len(errors) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert all(part in errors[0] for part in parts), errors


def test_other_classes_are_refused_unless_asked_for(project):
    def test(checkpoint, *options, check=False):
        arguments = ('tiny.py', checkpoint, '--work-dir', 'test', *options)
        return run_tool('test.py', *arguments, folder=project, check=check)

    refused(test('order.pth'), 'another order', '"circle", "square", "triangle" (3)')
    refused(test('names.pth'), 'other classes', '"cat", "dog", "owl" (3)')
    for arguments in (('names.pth', '--allow-partial'), ('case.pth',)):
        done = test(*arguments, check=True)
        assert 'warning: ' in done.stdout + done.stderr
    resume = ('tiny.py', '--resume', 'order.pth', '--cfg-options', 'train_cfg.max_epochs=2')
    refused(run_tool('train.py', *resume, folder=project, check=False), 'another order')


def test_a_checkpoint_that_fits_in_part_is_refused_unless_asked_for(project):
    arguments = ('plain.py', 'run/epoch_1.pth', '--work-dir', 'plain')
    for name in ('test.py', 'eval_coco.py'):
        done = run_tool(name, *arguments, folder=project, check=False)
        refused(done, 'fits the model in part', 'of another shape', 'unused', 'maxpool.logit')
    done = run_tool('test.py', *arguments, '--allow-partial', folder=project)
    assert 'tensors loaded; left out' in done.stdout + done.stderr
    # A training starts from what fits.
    options = ('--work-dir', 'tuned', '--cfg-options', 'load_from=run/epoch_1.pth')
    done = run_tool('train.py', 'plain.py', *options, folder=project)
    assert 'tensors loaded; left out' in done.stdout + done.stderr
    # Nobody starts from nothing on purpose.
    torch.save(dict(model={}), project / 'wrapped.pth')
    options = ('--work-dir', 'none', '--cfg-options', 'load_from=wrapped.pth')
    done = run_tool('train.py', 'plain.py', *options, folder=project, check=False)
    refused(done, 'wrapped.pth has no weights for this model')


def test_mmdetections_own_command_judges_the_data_by_the_hook(project):
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    if not script.is_file():
        pytest.skip('mmdet is installed from a checkout')
    command = [sys.executable, str(script), 'swapped.py', '--work-dir', 'hook']
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode and "write classes = ('square', 'circle', 'triangle')" in done.stderr
    assert 'Epoch(train)' not in done.stdout + done.stderr
    refused(run_tool('train.py', 'swapped.py', folder=project, check=False), 'write classes = (')


def test_files_that_number_classes_otherwise_are_refused(project):
    content = json.loads((project / 'data' / 'val.json').read_text())
    content['categories'] = content['categories'][::-1]
    (project / 'data' / 'other.json').write_text(json.dumps(content))
    for name, loader in (('train.py', 'val'), ('test.py', 'test'), ('eval_coco.py', 'test')):
        checkpoint = () if name == 'train.py' else ('run/epoch_1.pth',)
        option = f'{loader}_dataloader.dataset.ann_file=other.json'
        arguments = ('tiny.py', *checkpoint, '--cfg-options', option)
        done = run_tool(name, *arguments, folder=project, check=False)
        refused(done, 'number the classes differently: label 0 is ', 'other.json')


def test_classes_of_a_checkpoint_by_version():
    names = ('a', 'b')
    for meta in (dict(dataset_meta=dict(classes=names)), dict(dataset_meta=dict(CLASSES=names)),
                 dict(CLASSES=list(names))):  # fmt: skip
        assert checkpoint_classes(dict(meta=meta)) == names
    for meta in (None, {}, dict(dataset_meta=None), dict(CLASSES='ab')):
        assert checkpoint_classes(dict(meta=meta)) is None
