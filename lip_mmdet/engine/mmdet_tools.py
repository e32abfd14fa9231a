"""MMDetection's own train and test commands, with the plugin loaded and the config checked."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

from mmengine.config import Config

from lip_mmdet.engine.checkpoint_fit import runners_check_fit
from lip_mmdet.engine.config_checks import check_data
from lip_mmdet.engine.launch import join_processes_on_cpu
from lip_mmdet.engine.memory import keep_freed_memory
from lip_mmdet.engine.resume import latest_checkpoint
from lip_mmdet.engine.runner import TerseRunner
from lip_mmdet.engine.safe_loading import check_checkpoint
from lip_mmdet.errors import InputError

# Where launchers say which process this is.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def train() -> None:
    """Run MMDetection's ``tools/train.py`` on this process's command line.

    Raises:
        InputError: the config, its data or a checkpoint it names is at fault.
    """
    script = _load_script('train')
    allow_partial = _own_options()
    args = script.parse_args()
    config = read_config(args)
    say_and_check_data(config, 'train_dataloader', 'val_dataloader')
    for path in _checkpoints_to_start_from(config, args):
        check_checkpoint(path)
    _run(script, args.launcher, config, allow_partial)


def test() -> None:
    """Run MMDetection's ``tools/test.py`` on this process's command line.

    Raises:
        InputError: the config, its data or the checkpoint is at fault.
    """
    script = _load_script('test')
    allow_partial = _own_options()
    args = script.parse_args()
    config = read_config(args)
    say_and_check_data(config, 'test_dataloader')
    check_checkpoint(args.checkpoint)
    _run(script, args.launcher, config, allow_partial)


def say_and_check_data(config: Config, *loaders: str) -> None:
    """Print what :func:`check_data` has to say, in the first process alone; it may refuse."""
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), '0')
    if rank == '0':
        for note in check_data(config, *loaders):
            print(note, file=sys.stderr)


def _own_options() -> bool:
    """Take this project's options off the command line: whether a checkpoint may fit in part."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--allow-partial', action='store_true')
    own, rest = parser.parse_known_args()
    if {'-h', '--help'} & set(rest):
        print(
            "options beside MMDetection's: --allow-partial goes on with a checkpoint of other "
            'classes, or that fits the model in part\n'
        )
    sys.argv[1:] = rest
    return own.allow_partial


def _load_script(name: str) -> ModuleType:
    """Load a script of the installed MMDetection as a module."""
    import mmdet

    package = Path(mmdet.__file__).parent
    # A wheel carries its tools in `.mim`; a checkout has them beside the package.
    candidates = [
        package / '.mim' / 'tools' / f'{name}.py',
        package.parent / 'tools' / f'{name}.py',
    ]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise InputError(
            f'the installed MMDetection ({package}) has no tools/{name}.py; reinstall mmdet'
        )
    spec = importlib.util.spec_from_file_location(f'mmdet_tools_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(args) -> Config:
    """Read the config that a script is about to run, with the command line's changes."""
    if not Path(args.config).is_file():
        raise InputError(f'no config at {args.config}; configs/ has those of this project')
    try:
        config = Config.fromfile(args.config)
    except Exception as error:  # whatever the code of a config says
        raise InputError(f'{args.config} cannot be read: {error}') from error
    if args.cfg_options:
        try:
            config.merge_from_dict(args.cfg_options)
        except (TypeError, KeyError) as error:
            raise InputError(f'--cfg-options does not fit {args.config}: {error}') from error
    return config


def _checkpoints_to_start_from(config: Config, args) -> Iterator[str]:
    """Yield what a training run is about to load: to resume from, or to start with."""
    if args.resume == 'auto':
        work_dir = args.work_dir or config.get('work_dir')
        work_dir = work_dir or f'./work_dirs/{Path(args.config).stem}'
        # None if nothing was saved yet; the run then starts afresh.
        resume = latest_checkpoint(work_dir)
    else:
        resume = args.resume
    if resume or config.get('load_from'):
        yield resume or config.load_from
        return
    backbone = (config.get('model') or {}).get('backbone') or {}
    init_cfg = backbone.get('init_cfg') or {}
    for part in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
        path = part.get('checkpoint')
        # The backbone itself says what else there is where the file is missing.
        if path and Path(path).expanduser().is_file():
            yield path


def _run(script: ModuleType, launcher: str, config: Config, allow_partial: bool) -> None:
    keep_freed_memory()
    script.Runner = TerseRunner
    options = join_processes_on_cpu(launcher, bool(config.get('find_unused_parameters')))
    if options:
        sys.argv += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    with runners_check_fit(script, allow_partial):
        script.main()
