"""Trains what a study lacks, and keeps of each run what its figures rest on."""

from __future__ import annotations

import copy
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import find_latest_checkpoint

from lip_mmdet.backbones.watching import run_and_see
from lip_mmdet.engine.inference import detect
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import read_json
from lip_mmdet.files import replace_on_success, write_bytes, write_json
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
            or a training fails.
    """
    left = study.left()
    if only is not None:
        names = [run.name for run in study.runs]
        if only not in names:
            raise InputError(f'no run {only}; there are {", ".join(names)}')
        left = [run for run in left if run.name == only]
    if left:
        data = _data(study)
    for number, run in enumerate(left, 1):
        print(f'[{number}/{len(left)}] {run.name}: training in {run.work_dir}', flush=True)
        seconds = _train(run)
        _record(study, run, seconds, data)
        figures = run.record()['figures']
        print(f'[{number}/{len(left)}] {run.name}: AP {100 * figures["AP"]:.1f}', flush=True)


def _data(study: Study) -> dict[str, str]:
    """Return digests of the data, which have to be those of all runs."""
    missing = [str(path) for path in study.annotations if not path.is_file()]
    if missing:
        raise InputError(f'no data at {missing[0]}; put them there to train')
    digests = {str(path): file_digest(path) for path in study.annotations}
    for run in study.runs:
        record = run.record()
        if record and record['data'] != digests:
            raise InputError(
                f'{run.name} was trained on other data than there are; see {run.record_file}'
            )
    return digests


def _train(run: Run) -> float:
    """Train, or go on training, and return how long all of it took, in seconds."""
    run.work_dir.mkdir(parents=True, exist_ok=True)
    settings = copy.deepcopy(run.config)
    if run.start is not None:
        settings.load_from = str(checkpoint_of(run.start))
    config, clock = run.work_dir / 'config.py', run.work_dir / 'seconds'
    settings.dump(config)
    command = [sys.executable, '-c', _TRAIN, str(config), '--work-dir', str(run.work_dir)]
    command += ['--resume']
    before = float(clock.read_text()) if clock.is_file() else 0.0
    started = time.monotonic()
    try:
        with open(run.work_dir / 'log', 'a') as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    finally:  # after Ctrl-C, too
        seconds = before + time.monotonic() - started
        clock.write_text(str(seconds))
    if status.returncode:
        raise InputError(f'{run.name} failed; see {run.work_dir / "log"}')
    return seconds


def checkpoint_of(run: Run) -> Path:
    """Return a run's last checkpoint, which is kept on the machine that trained it only."""
    path = find_latest_checkpoint(str(run.work_dir)) if run.work_dir.is_dir() else None
    if path is None or not Path(path).is_file():
        raise InputError(
            f'the detector of {run.name} is not on this machine; remove {run.record_file} to train '
            'it again'
        )
    return Path(path)


def _record(study: Study, run: Run, seconds: float, data: dict[str, str]) -> None:
    config = run.work_dir / 'config.py'
    files = detect(config, checkpoint_of(run), work_dir=run.work_dir / 'detections')
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
            'figures': score(study, run.detections),
            'seconds': round(seconds),
            **cost(run.config),
            'threads': torch.get_num_threads(),
            'versions': {'python': platform.python_version(), 'torch': torch.__version__},
            'machine': f'{_processor()}, {os.cpu_count()} cores',
        },
    )


def cost(config: Config, repeats: int = 15) -> dict[str, float]:
    """Return multiply-adds, in millions, and median milliseconds of a backbone's forward pass.

    On one 256 x 256 image, in eval mode; milliseconds are of this machine as busy as it is.
    """
    init_default_scope(config.get('default_scope') or 'mmdet')
    backbone = MODELS.build({**config.model.backbone, 'init_cfg': None})
    backbone.eval()
    image, times = torch.zeros(1, 3, 256, 256), []
    with torch.no_grad():
        adds = sum(run_and_see(backbone, image).multiply_adds.values())
        for _ in range(repeats):
            begun = time.perf_counter()
            backbone(image)
            times.append(1000 * (time.perf_counter() - begun))
    return {'mega_multiply_adds': adds / 1e6, 'milliseconds': round(statistics.median(times), 1)}


def _processor() -> str:
    try:
        lines: Any = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
