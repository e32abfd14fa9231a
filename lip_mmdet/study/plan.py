"""What a study trains and compares, and which of its runs are done."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator

from mmengine.config import Config

import lip_mmdet
from lip_mmdet.engine.config_checks import inner_datasets
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import read_json
from lip_mmdet.study.machine import machine

# What of a config decides what a detector becomes and finds; the rest is where it logs.
_DECISIVE = (
    'model',
    'train_dataloader',
    'test_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'custom_hooks',
    'load_from',
)
# Hooks that watch a training, or carry it on, and those that each has.
_WATCHING = {
    'CheckDataHook', 'LIPResumeHook', 'LIPVisualizationHook', 'CheckpointHook', 'LoggerHook',
    'DetVisualizationHook', 'DistSamplerSeedHook', 'IterTimerHook', 'ParamSchedulerHook',
    'RuntimeInfoHook',
}  # fmt: skip
# The code that decides it.
_CODE = (
    'ops', 'layers', 'backbones', 'dense_heads',
    'engine/resume.py', 'study/noise.py', 'study/rivals.py',
)  # fmt: skip
# What is read of a record.
_RECORDED = {'key', 'data', 'code', 'figures', 'seconds'}
_TAKEN = ', whose place the results of another config have'


@dataclass(frozen=True)
class Run:
    """One training, or one test of another's detector.

    Attributes:
        arm: name of the arm.
        seed: of the training.
        config: with the arm's changes and the seed.
        start: the run whose detector it starts from, if the arm says so.
        trains: or tests that run's detector as it is.
        truth: annotations to score by, kept with the results.
        results: folder of what is kept of the study's runs.
        scratch: folder of what is not.
    """

    arm: str
    seed: int
    config: Config
    start: Run | None
    trains: bool
    truth: Path
    results: Path
    scratch: Path

    @property
    def name(self) -> str:
        return f'{self.arm}:{self.seed}'

    @property
    def detections(self) -> Path:
        """Where the detections are kept, as gzip'd COCO results."""
        return self.results / f'{self.arm}-{self.seed}.bbox.json.gz'

    @property
    def files(self) -> list[Path]:
        """The annotations that it is trained and tested on, and weights that it starts from."""
        loaders = (self.config.get(name) or {} for name in ('train_dataloader', 'test_dataloader'))
        sets = [one for loader in loaders for _, one in inner_datasets(loader.get('dataset'), '')]
        named = [one for one in sets if isinstance(one.get('ann_file'), str) and one.ann_file]
        files = {Path(one.get('data_root') or '') / one.ann_file for one in named}
        weights = self.start is None and self.config.get('load_from')
        return sorted(files | ({Path(weights)} if weights and '://' not in weights else set()))

    @property
    def record_file(self) -> Path:
        """Where its figures are kept."""
        return self.results / f'{self.arm}-{self.seed}.json'

    @property
    def work_dir(self) -> Path:
        """Where it is trained: for each config another folder, lest one go on with another's."""
        key = json.dumps(self.key(), sort_keys=True).encode()
        return self.scratch / self.arm / f'{self.seed}-{_digest(key)[:8]}'

    def key(self) -> dict[str, Any]:
        """Return what makes it the run that it is."""
        decisive = {name: self.config.get(name) for name in _DECISIVE}
        decisive['custom_hooks'] = _deciding(decisive['custom_hooks'] or [])
        key = {'config': _digest(json.dumps(decisive, sort_keys=True, default=str).encode())}
        key['seed'] = self.seed
        if self.start is not None:
            key['start'] = self.start.key()
        if not self.trains:
            key['trains'] = False
        if (self.config.get('auto_scale_lr') or {}).get('enable'):
            key['auto_scale_lr'] = self.config.auto_scale_lr.to_dict()
        hooks = _deciding((self.config.get('default_hooks') or {}).values())
        if hooks:
            key['hooks'] = _digest(json.dumps(hooks, sort_keys=True, default=str).encode())
        return key

    def record(self) -> dict[str, Any] | None:
        """Return what was recorded of it; None if it was not done, or as another run."""
        record = self._recorded() if self.detections.is_file() else None
        return record if record and record['key'] == self.key() else None

    def is_taken(self) -> bool:
        """Whether the results of another config are kept where its own would be."""
        record = self._recorded()
        return record is not None and record['key'] != self.key()

    def _recorded(self) -> dict[str, Any] | None:
        if not self.record_file.is_file():
            return None
        record = read_json(self.record_file, 'record')
        if not isinstance(record, dict) or not record.keys() >= _RECORDED:
            raise InputError(
                f'{self.record_file} is no record of a run; remove it to do {self.name}'
            )
        return record


@dataclass(frozen=True)
class Study:
    """Arms of a comparison.

    Attributes:
        name: of the study.
        labels: of the arms by their names, in order.
        runs: all of them, in the order in which they are to be done.
        compared: pairs (arm, baseline).
        planned: labels of what is not begun.
        max_dets: detections of an image that count.
        results: folder of what is kept.
    """

    name: str
    labels: dict[str, str]
    runs: list[Run]
    compared: list[tuple[str, str]]
    planned: list[str]
    max_dets: int
    results: Path

    def of_arm(self, arm: str) -> list[Run]:
        """Return the runs of an arm that are done."""
        return [run for run in self.runs if run.arm == arm and run.record()]

    @property
    def costs_file(self) -> Path:
        """What the arms' backbones cost, as one machine measured it."""
        return self.results / 'costs.json'

    def left(self) -> list[Run]:
        """Return the runs that are to be done."""
        return [run for run in self.runs if run.record() is None]

    def outlook(self) -> list[str]:
        """Return lines that say what is left, how long it will take, and what is compared."""
        left = self.left()
        lines = [f'{len(self.runs) - len(left)} of {len(self.runs)} runs are done']
        if not left:
            lines.append('nothing left')
        else:
            lines += [f'left: {run.name}{_TAKEN if run.is_taken() else ""}' for run in left]
            lines += self._time_of(left)
        begun = {run.arm for run in self.runs}
        pairs = [pair for pair in self.compared if begun.issuperset(pair)]
        lines += [f'compared: {self.labels[a]} over {self.labels[b]}' for a, b in pairs]
        older = self.older()
        if older:
            lines.append(f'by older code than there is now: {older}')
        return lines + [f'planned: {label}' for label in self.planned]

    def older(self) -> str:
        """Name the runs that other code than there is now has made, or say ``'all'``."""
        now, records = code_digest(), [(run, run.record()) for run in self.runs]
        done = [(run, record['code']) for run, record in records if record]
        older = [run for run, code in done if code != now]
        return 'all' if len(older) == len(done) > 1 else by_arm(older)

    def _time_of(self, left: list[Run]) -> list[str]:
        """Return a line on how long runs will take, by this machine's trainings if it has some."""
        done = [(run, run.record()) for run in self.runs if run.trains and run.record()]
        here = [one for one in done if one[1].get('machine') == machine()]
        known: dict[str, list[float]] = {}
        for run, record in here or done:
            known.setdefault(run.arm, []).append(record['seconds'])
        if not known:
            return []
        of_any = [seconds for of_arm in known.values() for seconds in of_arm]
        hours = sum(statistics.mean(known.get(r.arm, of_any)) for r in left if r.trains) / 3600
        return [f'about {hours:.1f} hours, by the runs {"here" if here else "elsewhere"}']


def kind_of_hook(hook: dict[str, Any]) -> str:
    """Return the name of a hook's class, however its config has it."""
    kind = hook.get('type')
    return getattr(kind, '__name__', str(kind).rpartition('.')[2])


def _deciding(hooks: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [hook for hook in hooks if hook and kind_of_hook(hook) not in _WATCHING]


def by_arm(runs: list[Run]) -> str:
    """Name runs, the seeds of an arm behind it, as in ``lip:0,1 plain:0``."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.arm, []).append(str(run.seed))
    return ' '.join(f'{arm}:{",".join(some)}' for arm, some in seeds.items())


def code_digest() -> str:
    """Return a digest of the code that a training runs."""
    root = Path(lip_mmdet.__file__).parent
    files = [f for part in _CODE for f in ([root / part] if '.' in part else _sources(root / part))]
    return _digest(b''.join(file.read_bytes() for file in files if file.is_file()))


def file_digest(path: Path) -> str:
    """Return a digest of a file."""
    return _digest(path.read_bytes())


def _sources(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob('*.py'))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
