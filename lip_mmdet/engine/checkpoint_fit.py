"""Whether a checkpoint belongs to the model and the classes that it is loaded into.

MMEngine loads what fits and warns of the rest among a thousand log lines. What is judged here is
what the loading itself reports, after everything that renames: official names, warm starts, EMA.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.json_file import shown

# What MMEngine adds to the errors that PyTorch found.
_MESSAGES = ('unexpected key', 'missing keys', 'The model and loaded state dict')
_GO_ON = 'use the config that it was trained with, or go on with --allow-partial'


class CheckpointFitHook(Hook):
    """Refuse a checkpoint of other classes, or one that fits the model in part.

    For testing and ``--resume``. A training that starts from weights (``load_from``, ``init_cfg``)
    loads what fits, and one line says how much that is.

    Args:
        allow_partial: go on, with one line.
    """

    priority = 'VERY_LOW'  # after hooks that rename, such as EMAHook

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial
        self._judges: list[Callable[[], None]] = []

    def before_run(self, runner: Runner) -> None:
        for name, module in _model(runner).named_modules():
            configs = getattr(module, 'init_cfg', None) or []
            for init in configs if isinstance(configs, (list, tuple)) else [configs]:
                if isinstance(init, dict) and init.get('type') == 'Pretrained':
                    path = init.get('checkpoint')
                    self._watch(
                        module, lambda fit, n=name, p=path: _tell(runner, f'{n} from {p}', fit)
                    )

    def _watch(self, module: nn.Module, judge: Callable[[dict[str, list[str]]], None]) -> None:
        self._judges.append(watch_loading(module, judge))

    def before_train(self, runner: Runner) -> None:
        """Judge what was loaded, where MMEngine does not say when it has."""
        for judge in self._judges:
            judge()

    before_val = before_test = before_train

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        training = runner._train_loop is not None and not runner._resume and _is_training(runner)
        path = runner._load_from or 'the checkpoint to resume from'
        if not training:
            loader = runner.train_dataloader if runner._resume else runner.test_dataloader
            found = checkpoint_classes(checkpoint)
            expected = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes')
            if found and expected and not isinstance(expected, str):
                self._judge_classes(runner, path, found, tuple(expected))

        def judge(fit: dict[str, list[str]]) -> None:
            if not _partial(fit):
                return
            if len(fit['missing']) == len(fit['own']):
                raise InputError(f'{path} has no weights for this model: {_counts(fit)}')
            if training or self.allow_partial:
                _tell(runner, path, fit)
                return
            raise InputError(f'{path} fits the model in part: {_counts(fit)}; {_GO_ON}')

        self._watch(_model(runner), judge)

    def _judge_classes(
        self, runner: Runner, path: str, found: Sequence[str], expected: Sequence[str]
    ) -> None:
        if tuple(found) == tuple(expected):
            return
        if [_folded(name) for name in found] == [_folded(name) for name in expected]:
            runner.logger.warning(
                f'warning: {path} spells its classes otherwise: {_listed(found)}, the config '
                f'{_listed(expected)}'
            )
            return
        same = sorted(found) == sorted(expected)
        how = 'has the classes in another order' if same else 'was trained on other classes'
        message = f'{path} {how}: {_listed(found)}, the config has {_listed(expected)}'
        if not self.allow_partial:
            raise InputError(f'{message}; {_GO_ON}')
        runner.logger.warning(f'warning: {message}')


def expect_fit(module: nn.Module, path: Any) -> Callable[[], None]:
    """Refuse (InputError) what the next loading of a module's weights takes in part only.

    Returns:
        A function to call after it.
    """

    def judge(fit: dict[str, list[str]]) -> None:
        if _partial(fit):
            raise InputError(
                f'{path} fits the model in part: {_counts(fit)}; use the config that it was '
                'trained with'
            )

    return watch_loading(module, judge)


def checkpoint_classes(checkpoint: dict) -> tuple[str, ...] | None:
    """Return the classes that a checkpoint of MMDetection 2 or 3 names, None if it names none."""
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):
        return None
    dataset = meta.get('dataset_meta') or {}
    lowered = {str(k).lower(): v for k, v in dataset.items()} if isinstance(dataset, dict) else {}
    classes = lowered.get('classes') or meta.get('CLASSES')
    if not isinstance(classes, (list, tuple)) or not all(isinstance(c, str) for c in classes):
        return None
    return tuple(classes)


@contextmanager
def runners_check_fit(script: Any, allow_partial: bool) -> Iterator[None]:
    """Give every Runner that one of MMDetection's scripts builds the hook of this module."""

    class CheckedRunner(script.Runner):
        def register_hooks(self, *args: Any, **kwargs: Any) -> None:
            super().register_hooks(*args, **kwargs)
            self.register_hook(CheckpointFitHook(allow_partial))

    original, script.Runner = script.Runner, CheckedRunner
    try:
        yield
    finally:
        script.Runner = original


def _is_training(runner: Runner) -> bool:
    # A test's config names a training too; what is built is what runs.
    return not isinstance(runner._train_loop, dict)


def _model(runner: Runner) -> nn.Module:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.module if isinstance(model, BaseTTAModel) else model


def watch_loading(
    module: nn.Module, judge: Callable[[dict[str, list[str]]], None]
) -> Callable[[], None]:
    """Call ``judge`` with what the next loading of a module's weights reports.

    Returns:
        A function to call after it, for MMEngine before 0.10 does not say when that is; it does
        nothing where nothing was loaded, or was judged already.
    """
    handles: list[Any] = []
    lists: dict[str, list[str]] = {}

    def before(state, prefix, metadata, strict, missing, unexpected, errors) -> None:
        lists.update(missing=missing, unused=unexpected, errors=errors)

    def after(*_: Any) -> None:
        if not (lists and handles):
            return
        while handles:
            handles.pop().remove()
        own = [name for name in module.state_dict() if not _uncounted(name)]
        judge(
            {
                'own': own,
                'missing': [name for name in lists['missing'] if not _uncounted(name)],
                'of another shape': [
                    error.partition('size mismatch for ')[2].partition(':')[0] or error
                    for error in lists['errors']
                    if not error.startswith(_MESSAGES)
                ],
                'unused': [name for name in lists['unused'] if not _uncounted(name)],
            }
        )

    handles.append(module._register_load_state_dict_pre_hook(before))
    handles.append(module.register_load_state_dict_post_hook(after))
    return after


def _uncounted(name: str) -> bool:
    # Files from before PyTorch 0.4.1 count no batches, and nothing depends on it.
    return name.endswith('num_batches_tracked')


def _partial(fit: dict[str, list[str]]) -> bool:
    return any(names for kind, names in fit.items() if kind != 'own')


def _counts(fit: dict[str, list[str]]) -> str:
    total = len(fit['own'])
    parts = []
    for kind in ('missing', 'of another shape', 'unused'):
        names = fit[kind]
        if names:
            of = f' of {total} tensors' if not parts else ''
            more = ', ...' if len(names) > 2 else ''
            parts.append(f'{len(names)}{of} {kind} ({", ".join(names[:2])}{more})')
    return ', '.join(parts)


def _tell(runner: Runner, what: str, fit: dict[str, list[str]]) -> None:
    if not _partial(fit):
        return
    total = len(fit['own'])
    loaded = total - len(fit['missing']) - len(fit['of another shape'])
    runner.logger.warning(
        f'warning: {what}: {loaded} of {total} tensors loaded; left out: {_counts(fit)}'
    )


def _folded(name: str) -> str:
    return ''.join(name.lower().split())


def _listed(names: Sequence[str]) -> str:
    listed = ', '.join(map(shown, names[:4]))
    return f'{listed}, ... ({len(names)})' if len(names) > 4 else f'{listed} ({len(names)})'
