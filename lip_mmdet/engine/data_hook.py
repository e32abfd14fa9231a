"""The check of a run's data for whoever starts MMDetection without this project's tools."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from lip_mmdet.engine.config_checks import check_data


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Judge the data of a run before its first iteration, validation or test.

    In a config: ``default_hooks = dict(check_data=dict(type='CheckDataHook'))``. Refuses what
    MMDetection would stumble over or learn wrongly (``InputError``) and logs what it leaves out.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        self._check(runner, 'train_dataloader', 'val_dataloader')

    def before_val(self, runner: Runner) -> None:
        self._check(runner, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        self._check(runner, 'test_dataloader')

    def _check(self, runner: Runner, *loaders: str) -> None:
        if runner.rank == 0:
            for note in check_data(runner.cfg, *loaders):
                log = runner.logger.warning if note.startswith('warning') else runner.logger.info
                log(note)
