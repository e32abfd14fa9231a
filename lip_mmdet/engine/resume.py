"""Runs that a kill at any moment leaves resumable, to the same bits.

Three things make it so. Random numbers do not flow from what happened before: each sample's, each
iteration's and each validation's are drawn from seed and place in the run, so that there are no
states to save or to lose, of whatever process. Batches already seen are skipped by index. And files
stand whole or not at all.
"""

from __future__ import annotations

import os
import random
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch
from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook, checkpoint_hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from lip_mmdet.errors import InputError
from lip_mmdet.files import replace_on_success

# What a place in the run belongs to.
_SAMPLE, _ITERATION, _VALIDATION = range(3)


@HOOKS.register_module()
class LIPResumeHook(Hook):
    """Let a run that was killed and resumed end in the same bits as one that was not.

    In a config: ``default_hooks = dict(resume=dict(type='LIPResumeHook'))``; with any backbone. A
    killed run goes on with ``--resume``. What this guarantees, and what not: ``docs/resume.md``.
    """

    priority = 'LOWEST'  # the last before an iteration, so that no other hook draws after it
    _seed = _saved = None
    _validated = False

    def before_run(self, runner: Runner) -> None:
        """Have checkpoints written whole, and find the newest one if the run is to go on."""
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and _is_local(hook):
                hook.backend_args = dict(backend='whole_files')
        # MMEngine opens `last_checkpoint` by this name, which its module may have for itself.
        checkpoint_hook.open = _open_whole
        if runner._resume and runner._load_from is None:
            runner._load_from = latest_checkpoint(runner.work_dir)
            runner._resume = runner._load_from is not None
            if runner._resume and runner.rank == 0:  # a kill may have come before this
                with _open_whole(os.path.join(runner.work_dir, 'last_checkpoint'), 'w') as file:
                    file.write(runner._load_from)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint.get('lip_resume') if 'optimizer' in checkpoint else None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint['lip_resume'] = dict(
            batches=len(runner.train_dataloader),
            validated=self._validated,
            input_sizes=[resizer._input_size for resizer in _batch_resizers(runner)],
        )

    def before_train(self, runner: Runner) -> None:
        """Draw the data from seed and place; go on where the checkpoint was saved.

        Raises:
            InputError: the data loader was not built by the runner.
        """
        loop = runner.train_loop
        for path in Path(runner.work_dir).glob('.*') if runner.rank == 0 else ():
            if re.fullmatch(r'\.(.+\.pth|last_checkpoint)\.[0-9a-f]{16}(\.pth)?', path.name):
                path.unlink()  # its writing was cut
        # After loading, for a resumed run takes the checkpoint's.
        of_rank = runner.rank if runner._randomness_cfg.get('diff_rank_seed') else 0
        self._seed = runner.seed - of_rank
        loader, self._batches = _build_loader(runner, self._seed)
        self._by_epoch = not isinstance(loop, IterBasedTrainLoop)
        saved = self._saved if self._saved and self._saved['batches'] == len(loader) else None
        if self._by_epoch:
            skip = self._batches.skip = loop.iter - loop.epoch * len(loader) if saved else 0
            run_iter = loop.run_iter
            loop.run_iter = lambda index, batch: run_iter(index + skip, batch)
        else:
            loop.dataloader_iterator = None  # ends the workers that MMEngine started on its loader
            loop.dataloader_iterator = _Stream(loader, self._batches, loop.iter)
        loop.dataloader = loader
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):  # which saves again after a validation, if it had
                hook.last_ckpt = runner.message_hub.get_info('last_ckpt')
        if loop.iter and saved:
            for resizer, size in zip(_batch_resizers(runner), saved['input_sizes']):
                resizer._input_size = size and tuple(size)
            if not saved['validated'] and _owes_validation(loop, self._by_epoch):
                runner.logger.info('the validation that was cut comes first')
                runner.val_loop.run()
        elif loop.iter:
            runner.logger.warning(
                'the checkpoint was saved without LIPResumeHook or optimizer, or with another '
                'number of batches: the run does not end in the bits of one that was not stopped'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        if self._by_epoch:
            self._batches.epoch = runner.epoch

    def after_train_epoch(self, runner: Runner) -> None:
        vars(runner.train_loop).pop('run_iter', None)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._validated = False
        _draw_from(self._seed, _ITERATION, runner.rank, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        self._validated = True  # by the time a checkpoint is saved
        if self._seed is not None:  # within a training
            _draw_from(self._seed, _VALIDATION, runner.rank, runner.iter)
            # What processes gathered each for themselves, as batch norms do, and one of them saves.
            for buffer in runner.model.buffers():
                broadcast(buffer)


def _owes_validation(loop: BaseLoop, by_epoch: bool) -> bool:
    """Whether, by MMEngine's rules, a validation follows the place that a loop stands at."""
    within = by_epoch and loop.iter != loop.epoch * len(loop.dataloader)
    loop._decide_current_val_interval()
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
    return due and not within and loop.runner.val_loop is not None


def _draw_from(*place: int, manual_seed: Any = torch.manual_seed) -> None:
    """Seed Python's, NumPy's and torch's random numbers with a place in the run."""
    for_python, for_numpy, for_torch = np.random.SeedSequence(place).generate_state(3)
    random.seed(int(for_python))
    np.random.seed(for_numpy)
    manual_seed(int(for_torch))


def _batch_resizers(runner: Runner) -> list:
    """Return what resizes whole batches to a size that it draws now and then, and keeps."""
    return [module for module in runner.model.modules() if hasattr(module, '_input_size')]


class _DrawnDataset:
    """A dataset that draws sample (index, place) from its place; all else is the dataset's own."""

    def __init__(self, dataset: Any) -> None:
        vars(self)['_dataset'] = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(vars(self)['_dataset'], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)

    def __deepcopy__(self, memo: dict) -> _DrawnDataset:
        return self  # MMEngine copies what it builds a loader from

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, sample: int | tuple[int, tuple]) -> Any:
        if not isinstance(sample, tuple):
            return self._dataset[sample]
        index, place = sample
        # Without workers these are the training's own.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            _draw_from(*place, manual_seed=torch.default_generator.manual_seed)
            return self._dataset[index]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


class _PlacedBatches:
    """A batch sampler that says of each index where in the run it stands."""

    def __init__(self, batches: Any, runner: Runner, seed: int) -> None:
        self._batches, self._seed, self._runner = batches, seed, runner
        self.sampler, self.batch_size = batches.sampler, batches.batch_size
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, tuple]]]:
        epoch, skip, self.skip = self.epoch, self.skip, 0
        if hasattr(self.sampler, 'set_epoch'):
            # Here, for without workers this runs after MMEngine's hook has set epoch 0.
            self.sampler.set_epoch(epoch)
        position = self._runner.rank
        for number, batch in enumerate(self._batches):
            samples = []
            for index in batch:
                samples.append((index, (self._seed, _SAMPLE, epoch, position)))
                position += self._runner.world_size
            if number >= skip:
                yield samples


class _Stream:
    """Batches without end, of which those already seen are passed over by index."""

    def __init__(self, loader: DataLoader, batches: _PlacedBatches, seen: int) -> None:
        self._loader, self._batches, self._seen = loader, batches, seen
        endless = isinstance(batches.sampler, (InfiniteSampler, MultiSourceSampler))
        epoch, batches.skip = (0, seen) if endless else divmod(seen, len(batches))
        self._start(epoch)

    def _start(self, epoch: int) -> None:
        self._batches.epoch = epoch
        self._iterator = iter(self._loader)

    def __next__(self) -> Any:
        if self._seen:  # MMEngine's loop asks for as many before it goes on
            self._seen -= 1
            return None
        try:
            return next(self._iterator)
        except StopIteration:
            self._start(self._batches.epoch + 1)
            return next(self._iterator)


def _build_loader(runner: Runner, seed: int) -> tuple[DataLoader, _PlacedBatches]:
    """Build the loader of the training data again, with samples drawn from seed and place."""
    config = runner._train_dataloader
    if isinstance(config, DataLoader):
        raise InputError('LIPResumeHook needs train_dataloader as a config, not a built DataLoader')
    cached = sorted(set(re.findall(r'Cached\w+', str(config))))
    if cached:
        runner.logger.warning(
            f'{", ".join(cached)}: images are kept by the processes that load them, so a resumed '
            'run cannot end in the bits of one that was not stopped'
        )
    config = dict(config, dataset=_DrawnDataset(runner.train_dataloader.dataset))
    config.pop('num_batch_per_epoch', None)  # the dataset has been cut to it
    loader = runner.build_dataloader(config, seed=seed)
    batches = _PlacedBatches(loader.batch_sampler, runner, seed)
    vars(loader)['batch_sampler'] = batches  # PyTorch lets nobody set it afterwards
    return loader, batches


def _is_local(hook: CheckpointHook) -> bool:
    return not (hook.backend_args or hook.file_client_args or '://' in str(hook.out_dir))


def latest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """Return the checkpoint that a run in ``work_dir`` goes on from, None if it saved nothing.

    That is the one ``last_checkpoint`` names, or, where a kill or a full disk left none, the newest
    whole one of the folder, as one line of the log says.

    Raises:
        InputError: something was saved, and no checkpoint is whole.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    named = Path(pointer.read_text('utf-8', 'replace').strip() if pointer.is_file() else '')
    saved = [p for p in work_dir.glob('*.pth') if re.fullmatch(r'(epoch|iter)_\d+.pth', p.name)]
    newest_first = sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (named, work_dir / named.name, *newest_first):
        if path.is_file() and _is_whole(path):
            if path != named:
                print_log(f'{pointer} names no whole file; {path} is the newest', 'current')
            return str(path)
    if saved or pointer.is_file():
        raise InputError(f'{work_dir} has no whole checkpoint; name one, or train in a new folder')
    return None


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint has its end, and all of it is what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None  # PyTorch does not look at the checksums
    except Exception:  # whatever damage looks like to zipfile, encryption for one
        return False


@contextmanager
def _open_whole(path: str, mode: str) -> Iterator[Any]:
    """Open a file to write, which takes its place once it is closed and safe on the disk."""
    try:
        with replace_on_success(path) as temporary, open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        good = latest_checkpoint(Path(path).parent)
        raise InputError(
            f'cannot write {path}: {error.strerror}; the last good checkpoint is {good}'
        ) from error


class _WholeFiles(LocalBackend):
    """Local files that stand whole or not at all; older ones go once the next one stands."""

    _outdated: list[str] = []  # of the process, for MMEngine builds several of this

    def put(self, obj: bytes, filepath: str) -> None:
        with _open_whole(filepath, 'wb') as file:
            file.write(obj)
        while self._outdated:
            outdated = self._outdated.pop()
            if Path(outdated) != Path(filepath) and Path(outdated).is_file():
                super().remove(outdated)

    def remove(self, filepath: str) -> None:
        self._outdated.append(filepath)


register_backend('whole_files', _WholeFiles, force=True)
