"""Trains what a study lacks, and keeps of each run what its figures rest on."""

from __future__ import annotations

import copy
import gzip
import json
import math
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from lip_mmdet.engine.config_checks import LOADERS
from lip_mmdet.engine.inference import detect, test_annotations
from lip_mmdet.engine.mmdet_tools import say_and_check_data
from lip_mmdet.engine.resume import latest_checkpoint
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import GroundTruth, load_ground_truth, read_json
from lip_mmdet.evaluation.tables import percent
from lip_mmdet.files import replace_on_success, write_bytes, write_json
from lip_mmdet.study.machine import machine
from lip_mmdet.study.plan import Run, Study, code_digest, file_digest, kind_of_hook
from lip_mmdet.study.results import LEAST_SCORE, score

_TRAIN = (
    'import lip_mmdet.plugin; from lip_mmdet.command_line import run_tool; '
    'from lip_mmdet.engine.mmdet_tools import train; run_tool(train)'
)


def carry_out(study: Study, only: str | None = None) -> None:
    """Train, score and record the runs that are left; a run that was stopped goes on.

    All arms are trained with one seed before the next, and judged before the first.

    Args:
        study: the study.
        only: ``ARM:SEED``, to do this run alone, another machine doing the others.

    Raises:
        InputError: there is no such run, the data are not there or not those of the runs before,
            the results of another config have a run's place, a detector to start from is not
            there, a model cannot be built, or a training fails.
    """
    left = sorted(study.left(), key=lambda run: run.seed)
    if only is not None:
        names = [run.name for run in study.runs]
        if only not in names:
            raise InputError(f'no run {only}; there are {", ".join(names)}')
        left = [run for run in left if run.name == only]
    for run in left:
        if run.is_taken():
            raise InputError(
                f'{run.record_file} has the results of {run.name} by another config; give the arm '
                'another name to keep them, or remove them'
            )
    for run in left:
        _data(study, run)
        _keep_truth(run)
        if run.start is not None and run.start not in left:
            checkpoint_of(run.start)
    for run in {run.arm: run for run in left}.values():
        _check_config(study, run)
    for number, run in enumerate(left, 1):
        print(f'[{number}/{len(left)}] {run.name}: in {run.work_dir}', flush=True)
        with _alone(run) as log:
            if run.record() is None:
                began = _began(study, run)
                config = _dump_config(run)
                seconds = _train(run, config, log) if run.trains else 0
                _record(study, run, seconds, began)
        figures = run.record()['figures']
        print(f'[{number}/{len(left)}] {run.name}: AP {percent(figures["AP"])}', flush=True)


def _alone(run: Run) -> TextIO:
    """Open a run's log, which a training inherits with its lock, once no other process has it."""
    run.work_dir.mkdir(parents=True, exist_ok=True)
    log = open(run.work_dir / 'log', 'a')  # noqa: SIM115
    with suppress(ImportError, OSError):  # Windows has other locks, and some disks none
        import fcntl

        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{run.name}: waiting for another process that trains it', flush=True)
            fcntl.flock(log, fcntl.LOCK_EX)
    return log


def _check_config(study: Study, run: Run) -> None:
    """See that the data can be read and the model built, lest that fail after hours."""
    config = copy.deepcopy(run.config)
    config.test_evaluator = None  # which is not asked
    say_and_check_data(config, *(LOADERS if run.trains else ('test_dataloader',)))
    init_default_scope(config.get('default_scope') or 'mmdet')
    try:
        MODELS.build(config.model)
    except Exception as error:  # whatever a module says of its arguments
        raise InputError(f'the model of {run.arm} cannot be built: {error}') from error
    testing = config.model.get('test_cfg') or {}
    most = (testing.get('rcnn') or testing).get('max_per_img', study.max_dets)
    if 0 < most < study.max_dets:
        print(
            f'{run.arm} keeps at most {most} detections of an image (max_per_img of its '
            f'test_cfg), and {study.name} counts {study.max_dets}',
            file=sys.stderr,
        )


def _began(study: Study, run: Run) -> dict[str, Any]:
    """Return digests of the data and code that a run began with; it goes on with no other data."""
    file, data = run.work_dir / 'began.json', _data(study, run)
    if latest_checkpoint(run.work_dir) is None or not file.is_file():
        write_json(file, {'data': data, 'code': code_digest()})
    began = read_json(file, 'note')
    if began['data'] != data:
        raise InputError(
            f'{run.name} began to train on other data than there are; bring them back, or remove '
            f'{run.work_dir} to train it anew'
        )
    return began


def _data(study: Study, run: Run) -> dict[str, str]:
    """Return digests of a run's data, which have to be those of all runs on them."""
    missing = [str(path) for path in run.files if not path.is_file()]
    if missing:
        raise InputError(f'no data at {missing[0]}; put them there to train')
    digests = {str(path): file_digest(path) for path in run.files}
    for other in study.runs:
        known = (other.record() or {'data': {}})['data']
        if any(known[path] != digest for path, digest in digests.items() if path in known):
            raise InputError(
                f'{other.name} was trained on other data than there are; see {other.record_file}'
            )
    return digests


def _keep_truth(run: Run) -> None:
    """Keep the test annotations beside the results, or see that those kept are they."""
    path = test_annotations(run.config)
    if not run.truth.is_file():
        load_ground_truth(path)
        run.truth.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        if run.truth.suffix == '.gz':
            content = gzip.compress(content, mtime=0)
        with replace_on_success(run.truth) as file:
            write_bytes(file, content, run.truth)
    elif not _is_same(load_ground_truth(run.truth), load_ground_truth(path)):
        raise InputError(
            f'{run.truth} has other annotations than {path}, which {run.name} is tested on; give '
            'its arm a `truth` of its own'
        )


def _is_same(one: GroundTruth, other: GroundTruth) -> bool:
    columns = ('image_ids', 'category_ids', 'image', 'category', 'boxes', 'areas', 'crowd')
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def _dump_config(run: Run) -> Path:
    settings = copy.deepcopy(run.config)
    if run.start is not None:
        settings.load_from = str(checkpoint_of(run.start))
    # The study says what to go on with, and needs the last checkpoint, whole enough for that.
    settings.resume = False
    hooks = dict(settings.get('default_hooks') or {})
    saving = dict(hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1))
    saving.update(save_last=True, save_optimizer=True, save_param_scheduler=True)
    if 'max_iters' in (settings.get('train_cfg') or {}) and saving.get('by_epoch', True):
        saving.update(by_epoch=False, interval=settings.train_cfg.get('val_interval', 1000))
    every = [*hooks.values(), *(settings.get('custom_hooks') or [])]
    if 'LIPResumeHook' not in [kind_of_hook(hook) for hook in every if hook]:
        hooks['resume'] = dict(type='LIPResumeHook')
    settings.default_hooks = {**hooks, 'checkpoint': saving}
    settings.dump(run.work_dir / 'config.py')
    return run.work_dir / 'config.py'


def _train(run: Run, config: Path, log: TextIO) -> float:
    """Train, or go on training, and return how long all of it took, in seconds."""
    command = [sys.executable, '-c', _TRAIN, str(config), '--work-dir', str(run.work_dir)]
    if latest_checkpoint(run.work_dir):
        command.append('--resume')  # which makes MMDetection's script forget `load_from`
    clock = run.work_dir / 'seconds'
    before = float(clock.read_text()) if clock.is_file() else 0.0
    started = time.monotonic()
    try:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    finally:  # after Ctrl-C, too
        seconds = before + time.monotonic() - started
        clock.write_text(str(seconds))
    if status.returncode:
        file = run.work_dir / 'log'
        lines = [line.strip() for line in file.read_text(errors='replace').splitlines()]
        last = next((line for line in reversed(lines) if line), '')
        raise InputError(f'{run.name} failed: {last} (all of it in {file})')
    return seconds


def checkpoint_of(run: Run) -> Path:
    """Return the detector of a run that is done, which is on the machine that trained it only."""
    while not run.trains:
        run = run.start
    record, path = run.record(), latest_checkpoint(run.work_dir)
    # What is here may be half trained, or another than the one whose figures are recorded.
    if not record or not path or record.get('checkpoint') not in (None, file_digest(Path(path))):
        raise InputError(
            f'the detector of {run.name} is not on this machine, whole, in {run.work_dir}; train '
            f'it here first, for which {run.record_file} must not be there'
        )
    return Path(path)


def _record(study: Study, run: Run, seconds: float, began: dict[str, Any]) -> None:
    checkpoint = latest_checkpoint(run.work_dir) if run.trains else checkpoint_of(run.start)
    files = detect(run.work_dir / 'config.py', checkpoint, work_dir=run.work_dir / 'detections')
    kept = [
        {
            'image_id': one['image_id'],
            'category_id': one['category_id'],
            'bbox': [round(x, 2) for x in one['bbox']],
            'score': round(one['score'], 5),
        }
        for one in read_json(files.results, 'results file')
        if one['score'] >= LEAST_SCORE and all(map(math.isfinite, (*one['bbox'], one['score'])))
    ]
    text = json.dumps(kept, separators=(',', ':')).encode()
    with replace_on_success(run.detections) as file:
        write_bytes(file, gzip.compress(text, mtime=0), run.detections)
    write_json(
        run.record_file,
        {
            'arm': run.arm,
            'seed': run.seed,
            'key': run.key(),
            **began,
            'checkpoint': file_digest(Path(checkpoint)),
            'figures': score(study, run),
            'max_dets': study.max_dets,
            'seconds': round(seconds),
            'threads': torch.get_num_threads(),
            'versions': {'python': platform.python_version(), 'torch': torch.__version__},
            'machine': machine(),
        },
    )
