"""Trains what a study lacks, and keeps of each run what its figures rest on."""

from __future__ import annotations

import copy
import gzip
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from lip_mmdet.engine.inference import detect, test_annotations
from lip_mmdet.engine.resume import latest_checkpoint
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import GroundTruth, load_ground_truth, read_json
from lip_mmdet.files import replace_on_success, write_bytes, write_json
from lip_mmdet.study.costs import machine
from lip_mmdet.study.plan import Run, Study, code_digest, file_digest
from lip_mmdet.study.results import score

# Detections below this are not kept.
_LEAST_SCORE = 0.05
_TRAIN = (
    'import lip_mmdet.plugin; from lip_mmdet.command_line import run_tool; '
    'from lip_mmdet.engine.mmdet_tools import train; run_tool(train)'
)


def carry_out(study: Study, only: str | None = None) -> None:
    """Train, score and record the runs that are left; a run that was stopped goes on.

    Args:
        study: the study.
        only: ``ARM:SEED``, to do this run alone, another machine doing the others.

    Raises:
        InputError: there is no such run, the data are not there or not those of the runs before,
            the results of another config have a run's place, or a training fails.
    """
    left = study.left()
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
    data = [_data(study, run) for run in left]
    for run in left:
        _keep_truth(run)
    for number, run in enumerate(left, 1):
        print(f'[{number}/{len(left)}] {run.name}: in {run.work_dir}', flush=True)
        config = _dump_config(run)
        seconds = _train(run, config) if run.trains else 0
        _record(study, run, seconds, data[number - 1])
        figures = run.record()['figures']
        print(f'[{number}/{len(left)}] {run.name}: AP {100 * figures["AP"]:.1f}', flush=True)


def _data(study: Study, run: Run) -> dict[str, str]:
    """Return digests of a run's data, which have to be those of all runs on them."""
    missing = [str(path) for path in run.annotations if not path.is_file()]
    if missing:
        raise InputError(f'no data at {missing[0]}; put them there to train')
    digests = {str(path): file_digest(path) for path in run.annotations}
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
        pack = gzip.compress if run.truth.suffix == '.gz' else bytes
        with replace_on_success(run.truth) as file:
            write_bytes(file, pack(path.read_bytes()), run.truth)
    elif not _is_same(load_ground_truth(run.truth), load_ground_truth(path)):
        raise InputError(
            f'{run.truth} has other annotations than {path}, which {run.name} is tested on; give '
            'its arm a `truth` of its own'
        )


def _is_same(one: GroundTruth, other: GroundTruth) -> bool:
    columns = ('image_ids', 'category_ids', 'image', 'category', 'boxes', 'areas', 'crowd')
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def _dump_config(run: Run) -> Path:
    run.work_dir.mkdir(parents=True, exist_ok=True)
    settings = copy.deepcopy(run.config)
    if run.start is not None:
        settings.load_from = str(checkpoint_of(run.start))
    settings.dump(run.work_dir / 'config.py')
    return run.work_dir / 'config.py'


def _train(run: Run, config: Path) -> float:
    """Train, or go on training, and return how long all of it took, in seconds."""
    command = [sys.executable, '-c', _TRAIN, str(config), '--work-dir', str(run.work_dir)]
    if latest_checkpoint(run.work_dir):
        command.append('--resume')  # which makes MMDetection's script forget `load_from`
    clock = run.work_dir / 'seconds'
    before = float(clock.read_text()) if clock.is_file() else 0.0
    started = time.monotonic()
    try:
        with open(run.work_dir / 'log', 'a') as log:
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
    """Return a run's last checkpoint, which is kept on the machine that trained it only."""
    path = latest_checkpoint(run.work_dir)
    if path is None:
        raise InputError(
            f'the detector of {run.name} is not on this machine, in {run.work_dir}; remove '
            f'{run.record_file} to train it again'
        )
    return Path(path)


def _record(study: Study, run: Run, seconds: float, data: dict[str, str]) -> None:
    config, trained = run.work_dir / 'config.py', run if run.trains else run.start
    files = detect(config, checkpoint_of(trained), work_dir=run.work_dir / 'detections')
    kept = [
        {
            'image_id': one['image_id'],
            'category_id': one['category_id'],
            'bbox': [round(x, 2) for x in one['bbox']],
            'score': round(one['score'], 5),
        }
        for one in read_json(files.results, 'results file')
        if one['score'] >= _LEAST_SCORE
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
            'data': data,
            'code': code_digest(),
            'figures': score(study, run),
            'seconds': round(seconds),
            'threads': torch.get_num_threads(),
            'versions': {'python': platform.python_version(), 'torch': torch.__version__},
            'machine': machine(),
        },
    )
