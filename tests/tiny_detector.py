"""A detector and a dataset small enough to run MMDetection's commands on in a test."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from shapes import make_shapes_dataset

ROOT = Path(__file__).resolve().parent.parent
# A process forked from a server that has imported all this starts at once, a new one takes seconds.
# Where the server has seen a GPU, no fork can use one.
SERVER = multiprocessing.get_context('spawn' if torch.cuda.is_available() else 'forkserver')
SERVER.set_forkserver_preload(
    ['lip_mmdet.plugin', 'lip_mmdet.engine.mmdet_tools', 'lip_mmdet.engine.inference', 'mmdet.apis']
)

CONFIG = """
_base_ = '{root}/configs/demo/faster-rcnn_lip-r18_fpn_demo.py'
data_root = '{folder}/data/'
model = dict(
    backbone=dict(depth=18, base_channels=8, norm_eval=True),
    neck=dict(in_channels=[8, 16, 32, 64]),
)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(data_root=data_root)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(save_optimizer=True), logger=dict(interval=1))
"""


def write_tiny_project(folder):
    """Write a dataset and a config below ``folder``; return the config's path."""
    make_shapes_dataset(folder / 'data', num_train=8, num_val=6, seed=3)
    config = folder / 'tiny.py'
    config.write_text(CONFIG.format(root=ROOT.as_posix(), folder=folder.as_posix()))
    return config


def run_tool(name, *args, folder, check=True, launcher=None):
    """Run a tool of this project as its users do, from ``folder``.

    With a launcher (what Python is to be told before the tool) in a process from scratch, else in
    one that has imported what most tools do.
    """
    command = [str(ROOT / 'tools' / name), *map(str, args)]
    if launcher is not None:
        command = [sys.executable, *launcher, *command]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    else:
        done = _run_forked(command, folder)
    if check and done.returncode:
        raise AssertionError(f'{name} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
    return done


def _run_forked(command, folder):
    with tempfile.TemporaryDirectory() as outputs:
        files = [Path(outputs) / name for name in ('stdout', 'stderr')]
        process = SERVER.Process(target=_be_tool, args=(command, folder, files, dict(os.environ)))
        process.start()
        process.join()
        texts = [file.read_text() for file in files]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _be_tool(command, folder, files, environment):
    os.chdir(folder)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name='__main__')
