"""MMDetection's own train and test commands, with the plugin loaded and the config checked."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from lip_mmdet.engine.config_checks import check_dataset
from lip_mmdet.engine.launch import join_processes_on_cpu
from lip_mmdet.engine.memory import keep_freed_memory
from lip_mmdet.engine.runner import TerseRunner
from lip_mmdet.engine.safe_loading import check_checkpoint
from lip_mmdet.errors import InputError


def train() -> None:
    """Run MMDetection's ``tools/train.py`` on this process's command line.

    Raises:
        InputError: the config, its data or a checkpoint it names is at fault.
    """
    script = _load_script('train')
    args = script.parse_args()
    config = read_config(args)
    for loader in ('train_dataloader', 'val_dataloader'):
        check_dataset(config, loader)
    for path in _checkpoints_to_start_from(config, args):
        check_checkpoint(path)
    _run(script, args.launcher, config)


def test() -> None:
    """Run MMDetection's ``tools/test.py`` on this process's command line.

    Raises:
        InputError: the config, its data or the checkpoint is at fault.
    """
    script = _load_script('test')
    args = script.parse_args()
    config = read_config(args)
    check_dataset(config, 'test_dataloader')
    check_checkpoint(args.checkpoint)
    _run(script, args.launcher, config)


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
    except (OSError, SyntaxError, RuntimeError, LookupError, TypeError, ValueError) as error:
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
        resume = find_latest_checkpoint(work_dir) if Path(work_dir).is_dir() else None
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


def _run(script: ModuleType, launcher: str, config: Config) -> None:
    keep_freed_memory()
    script.Runner = TerseRunner
    options = join_processes_on_cpu(launcher, bool(config.get('find_unused_parameters')))
    if options:
        sys.argv += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    try:
        script.main()
    except json.JSONDecodeError as error:
        raise InputError(
            f'an annotation file is not whole JSON ({error}); fetch it again'
        ) from error
