"""Reads a study's config."""

from __future__ import annotations

import copy
import difflib
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from lip_mmdet.engine.config_checks import config_classes
from lip_mmdet.engine.mmdet_tools import read_config
from lip_mmdet.errors import InputError
from lip_mmdet.study.plan import Run, Study

_LISTS = (list, tuple)
# What a study and an arm are made of, and whether they have to be.
_STUDY = {
    'name': (str, True),
    'results': (str, True),
    'arms': (_LISTS, True),
    'compared': (_LISTS, True),
    'truth': (str, False),
    'planned': (_LISTS, False),
    'max_dets': (int, False),
}
_ARM = {
    'name': (str, True),
    'config': (str, True),
    'seeds': (_LISTS, True),
    'label': (str, False),
    'changes': (dict, False),
    'starts_from': (str, False),
    'tests': (str, False),
    'truth': (str, False),
}


def read_study(path: str | Path) -> Study:
    """Read a study's config.

    Args:
        path: a Python file with ``name``; ``results``, a folder as seen from the project; ``arms``,
            each a dict of ``name``, ``label``, ``config`` (as seen from this file), ``seeds`` (none
            if it is planned), perhaps ``changes`` (to the config, by dotted name), ``starts_from``
            (an arm whose detector of the same seed is trained on), ``tests`` (an arm whose detector
            of the same seed is tested as it is) and a ``truth`` of its own; ``compared``, pairs of
            arm names; perhaps ``planned``, ``max_dets`` (100) and ``truth`` (``truth.json.gz``), a
            file in ``results`` that keeps the test annotations.

    Raises:
        InputError: there is no such file, or it lacks, misnames or confuses something.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'no study at {path}; configs/study/ has those of this project')
    content = _config(path).to_dict()
    _check_types(content, _STUDY, str(path))
    for name in _STUDY.keys() - content.keys():  # whose default would be taken without a word
        for close in difflib.get_close_matches(name, content, cutoff=0.7):
            print(f'{path}: nothing reads {close}; is it {name}?', file=sys.stderr)
    if content.get('max_dets', 1) < 1:
        raise InputError(f'{path}: max_dets is {content["max_dets"]}, and should be at least 1')
    results, scratch = Path(content['results']), Path('work_dirs/study') / content['name']
    runs: dict[tuple[str, int], Run] = {}
    labels: dict[str, str] = {}
    truths: dict[str, Path] = {}
    files: dict[str, Config] = {}  # most arms change the same one
    for number, arm in enumerate(content['arms']):
        _check_arm(arm, f'{path}: arms[{number}]')
        name = arm['name']
        label = arm.get('label', name)
        if name in labels or label in labels.values():
            raise InputError(f'{path} has two arms of the name {name} or the label {label}')
        labels[name] = label
        truths[name] = results / arm.get('truth', content.get('truth', 'truth.json.gz'))
        file = arm['config']
        if file not in files:
            files[file] = _config(path.parent / file)
        config = _changed(files[file], arm, path)
        for seed in arm['seeds']:
            start = arm.get('tests') or arm.get('starts_from')
            if start is not None and (start, seed) not in runs:
                raise InputError(f'{path}: there is no {start}:{seed} before {name}:{seed}')
            runs[name, seed] = Run(
                name,
                seed,
                _seeded(config, seed),
                runs.get((start, seed)),
                'tests' not in arm,
                truths[name],
                results,
                scratch,
            )
    study = Study(
        name=content['name'],
        labels=labels,
        runs=list(runs.values()),
        compared=[_pair(pair, truths, path) for pair in content['compared']],
        planned=[labels[arm['name']] for arm in content['arms'] if not arm['seeds']]
        + list(content.get('planned', ())),
        max_dets=content.get('max_dets', 100),
        results=results,
    )
    for one, other in study.compared:
        seeds = [s for arm, s in runs if arm == one and (other, s) in runs]
        both = [run for run in runs.values() if run.arm in (one, other)]
        if (
            len({frozenset(config_classes(run.config, 'test_dataloader') or ()) for run in both})
            > 1
        ):
            raise InputError(f'{path} compares {one} and {other}, which detect other classes')
        if any(runs[one, seed].key() == runs[other, seed].key() for seed in seeds):
            raise InputError(
                f'{path}: {one} and {other} are one and the same detector; see what `config` and '
                '`changes` of them say'
            )
    return study


def _check_types(content: dict[str, Any], types: dict[str, tuple[Any, bool]], where: str) -> None:
    lacking = [name for name, (_, needed) in types.items() if needed and name not in content]
    if lacking:
        raise InputError(f'{where} lacks {", ".join(lacking)}')
    for name, (kind, _) in types.items():
        if not isinstance(content.get(name, kind), (kind, type)):
            wanted = 'list' if kind is _LISTS else kind.__name__
            raise InputError(f'{where}: {name} is {content[name]!r}, and should be a {wanted}')


def _check_arm(arm: Any, where: str) -> None:
    if not isinstance(arm, dict):
        raise InputError(f'{where} is {arm!r}, and should be a dict')
    _check_types(arm, _ARM, where)
    unknown = sorted(arm.keys() - _ARM.keys())
    if unknown:
        raise InputError(f'{where} has {", ".join(unknown)}; an arm may have {", ".join(_ARM)}')
    if 'tests' in arm and 'starts_from' in arm:
        raise InputError(f'{where} tests a detector as it is and starts from one; leave one out')
    if Path(arm['name']).name != arm['name'] or not arm['name'].strip('.'):
        raise InputError(f'{where}: the name {arm["name"]!r} cannot be that of a file')
    wrong = [seed for seed in arm['seeds'] if type(seed) is not int or seed < 0]
    if wrong:
        raise InputError(f'{where}: the seed {wrong[0]!r} is not a whole number from 0')


def _pair(pair: Any, truths: dict[str, Path], path: Path) -> tuple[str, str]:
    if not isinstance(pair, _LISTS) or len(pair) != 2:
        raise InputError(f'{path}: compared has {pair!r}, which is no pair of arms')
    unknown = [name for name in pair if name not in truths]
    if unknown:
        raise InputError(f'{path} compares {unknown[0]}, which is no arm of it')
    if truths[pair[0]] != truths[pair[1]]:
        raise InputError(f'{path} compares {pair[0]} and {pair[1]}, which have different truths')
    return pair[0], pair[1]


def _config(path: Path) -> Config:
    return read_config(SimpleNamespace(config=path, cfg_options=None))


def _changed(config: Config, arm: dict[str, Any], path: Path) -> Config:
    config = copy.deepcopy(config)
    for name, value in arm.get('changes', {}).items():
        # MMEngine would add what is misspelt, and nothing would ever read it.
        if name.split('.')[0] not in {*config, *inspect.signature(Runner).parameters}:
            raise InputError(f'{path}: {arm["name"]} changes {name}, and {arm["config"]} has none')
        try:
            config.merge_from_dict({name: value})
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise InputError(f'{path}: {arm["name"]} cannot change {name}: {error}') from error
    try:  # reading the config did so, but for what is changed
        import_modules_from_strings(**(config.get('custom_imports') or {'imports': []}))
    except (ImportError, TypeError) as error:
        raise InputError(f'{path}: custom_imports of {arm["name"]}: {error}') from error
    return config


def _seeded(config: Config, seed: int) -> Config:
    config = copy.deepcopy(config)
    config.randomness = {**(config.get('randomness') or {}), 'seed': seed}
    return config
