"""A detector and a dataset small enough to run MMDetection's commands on in a test."""

import subprocess
import sys
from pathlib import Path

from shapes import make_shapes_dataset

ROOT = Path(__file__).resolve().parent.parent

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


def run_tool(name, *args, folder, check=True, launcher=()):
    """Run a tool of this project as its users do, from ``folder``."""
    command = [sys.executable, *launcher, str(ROOT / 'tools' / name), *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f'{name} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
    return done
