"""A run that SIGKILL ends at any moment and that is resumed ends in the bits of one left alone.

Most runs here are of a small classifier, for the promise holds for whatever MMEngine trains.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATASETS, METRICS, MODELS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from tiny_detector import ROOT, SERVER, run_tool, write_tiny_project
from torch import nn

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.engine.resume import latest_checkpoint
from lip_mmdet.errors import InputError


@DATASETS.register_module()
class NoisyDataset(torch.utils.data.Dataset):
    """Each sample takes random numbers of all three kinds."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(4)
        return dict(inputs=noise.float() + index, labels=index % 2)


@MODELS.register_module()
class Classifier(BaseModel):
    """It draws random numbers as it trains, and keeps statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)
        )

    def forward(self, inputs, labels, mode):
        scores = self.layers(inputs + 0.01 * random.random() + 0.01 * np.random.rand())
        return dict(loss=nn.functional.cross_entropy(scores, labels)) if mode == 'loss' else scores


@METRICS.register_module()
class MeanScore(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [float(scores.double().mean()) for scores in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results) / len(results))


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """MMEngine's, which asks for a GPU, with PyTorch's scaler for the CPU."""

    def __init__(self, loss_scale, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', **loss_scale)
        self._scale_update_param = None

    def optim_context(self, model):
        return torch.autocast('cpu', torch.float16)


def run_config(**changes):
    loader = dict(
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        dataset=dict(type='NoisyDataset'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    quiet = dict(
        num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    checkpoint = dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='score', rule='greater'
    )
    config = dict(
        model=dict(type='Classifier'),
        train_dataloader=loader,
        val_dataloader=dict(loader, **quiet),
        val_cfg=dict(),
        val_evaluator=dict(type='MeanScore'),
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=4, convert_to_iter_based=True)],
        default_hooks=dict(
            checkpoint={**checkpoint, **changes.pop('checkpoint', {})},
            resume=dict(type='LIPResumeHook'),
        ),
        randomness=dict(seed=5),
        log_level='ERROR',
        experiment_name='test',
    )
    return dict(config, **changes)


EMA = dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', update_buffers=True)
BY_ITERATION = dict(type='IterBasedTrainLoop', max_iters=14, val_interval=5)
RUNS = {
    'epochs': dict(custom_hooks=[EMA]),
    'within epochs': dict(checkpoint=dict(by_epoch=False, interval=4)),
    'batches accumulated': dict(
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=3),
        param_scheduler=[
            dict(type='ReduceOnPlateauLR', monitor='score', patience=0, rule='greater')
        ],
    ),
    'iterations': dict(train_cfg=BY_ITERATION, checkpoint=dict(by_epoch=False, interval=4)),
    'iterations without workers': dict(
        train_cfg=BY_ITERATION,
        checkpoint=dict(by_epoch=False, interval=4),
        train_dataloader=dict(
            run_config()['train_dataloader'], num_workers=0, persistent_workers=False
        ),
    ),
    'endless': dict(
        train_cfg=BY_ITERATION,
        checkpoint=dict(by_epoch=False, interval=4),
        train_dataloader=dict(
            run_config()['train_dataloader'], sampler=dict(type='InfiniteSampler', shuffle=True)
        ),
    ),
}


def _train(config, work_dir, resume, kill_at, join):
    """Train in this process; it kills itself at a moment, counted in steps and changes of files."""
    torch.set_num_threads(1)
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'  # which deterministic CUDA needs
    moments = iter(range(1, 10**6))

    def counted(function):
        def call(*args, **kwargs):
            if next(moments) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if join:
        rank, store = join
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{store}', rank=rank, world_size=2
        )
        os.environ['LOCAL_RANK'] = str(rank)  # which MMEngine hands to the wrapper
        wrapper = dict(type='CPUDistributedDataParallel')
        config = dict(config, model_wrapper_cfg=wrapper, launcher='pytorch')
    Runner._log_env = lambda *args: None  # it asks several programs
    runner = Runner.from_cfg(dict(config, work_dir=str(work_dir), resume=resume))
    for name in ('fsync', 'unlink', 'remove'):
        setattr(os, name, counted(getattr(os, name)))
    Path.replace = counted(Path.replace)
    runner.call_hook = counted(runner.call_hook)
    runner.train()
    if runner.rank == 0:
        (work_dir / 'moments').write_text(str(next(moments)))
    os._exit(0)  # gloo's threads may abort a process that is taken down in order


def train(config, work_dir, resume=False, kill_at=None, processes=1):
    """Train in processes of their own; return how the first one ended."""
    work_dir.mkdir(exist_ok=True)
    store = work_dir / f'store{random.randrange(10**9)}'
    started = []
    for rank in range(processes):
        join = (rank, store) if processes > 1 else None
        process = SERVER.Process(target=_train, args=(config, work_dir, resume, kill_at, join))
        process.start()
        started.append(process)
    started[0].join()
    for process in started[1:]:
        process.kill()
    return started[0].exitcode


def assert_same(value, expected):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(value, expected)
    elif isinstance(expected, (dict, list)):
        assert len(value) == len(expected)
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_same(value[key], expected[key])
    else:
        assert value == expected


def assert_same_bits(work_dir, other):
    """All that training goes on from, and the best weights so far."""
    names = sorted(path.name for path in other.glob('*.pth'))
    assert sorted(path.name for path in work_dir.glob('*.pth')) == names
    for name in names:
        checkpoint, expected = (
            torch.load(folder / name, weights_only=False) for folder in (work_dir, other)
        )
        for part in ('state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict', 'lip_resume'):
            assert_same(checkpoint.get(part), expected.get(part))
        assert [checkpoint['meta'][k] for k in ('epoch', 'iter', 'seed')] == [
            expected['meta'][k] for k in ('epoch', 'iter', 'seed')
        ]
        info, expected_info = (c['message_hub']['runtime_info'] for c in (checkpoint, expected))
        assert info.get('best_score') == expected_info.get('best_score')
    last = [Path((folder / 'last_checkpoint').read_text()).name for folder in (work_dir, other)]
    assert last[0] == last[1]


def moments_of(work_dir):
    return int((work_dir / 'moments').read_text())


def assert_survives(config, whole, folder, kill_at, **options):
    assert train(config, folder, kill_at=kill_at, **options) == -signal.SIGKILL, kill_at
    assert train(config, folder, resume=True, **options) == 0, kill_at
    assert_same_bits(folder, whole)


@pytest.mark.parametrize('name', RUNS)
def test_a_killed_run_ends_in_the_same_bits(name, tmp_path):
    config, whole = run_config(**RUNS[name]), tmp_path / 'whole'
    assert train(config, whole) == 0
    moments = moments_of(whole)
    kill_at = random.Random(name).randrange(moments // 2, moments)
    assert_survives(config, whole, tmp_path / 'killed', kill_at)


def test_two_processes_end_in_the_same_bits(tmp_path):
    config, whole = run_config(**RUNS['epochs']), tmp_path / 'whole'
    assert train(config, whole, processes=2) == 0
    kill_at = 2 * moments_of(whole) // 3
    assert_survives(config, whole, tmp_path / 'killed', kill_at, processes=2)


@pytest.mark.parametrize(
    'wrapper', ['CPUAmpOptimWrapper', pytest.param('AmpOptimWrapper', marks=pytest.mark.gpu)]
)
def test_mixed_precision_and_its_scaler_end_in_the_same_bits(wrapper, tmp_path):
    """The scale falls at first, and grows twice and more."""
    if wrapper == 'AmpOptimWrapper' and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this PyTorch has a scaler for GPUs only')
    scaled = dict(
        type=wrapper,
        loss_scale=dict(init_scale=2.0**24, growth_interval=5),
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
    )
    config = run_config(optim_wrapper=scaled, randomness=dict(seed=5, deterministic=True))
    whole = tmp_path / 'whole'
    assert train(config, whole) == 0
    last = torch.load(next(whole.glob('epoch_*.pth')), weights_only=False)
    assert last['optimizer']['loss_scaler']['scale'] != 2.0**24
    assert_survives(config, whole, tmp_path / 'killed', 2 * moments_of(whole) // 3)


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('name', RUNS)
def test_a_run_survives_a_kill_at_every_fifth_moment(name, processes, tmp_path):
    """And, killed again and again, each time a little later than it came before."""
    config, whole = run_config(**RUNS[name]), tmp_path / 'whole'
    assert train(config, whole, processes=processes) == 0
    for kill_at in range(1 + processes, moments_of(whole), 5 * processes):
        assert_survives(config, whole, tmp_path / str(kill_at), kill_at, processes=processes)
    again, kills = tmp_path / 'again', 0
    while train(config, again, resume=True, kill_at=30 + kills, processes=processes) != 0:
        kills += 1
    assert kills > 2
    assert_same_bits(again, whole)


def test_seed_is_the_checkpoints(tmp_path):
    """Without one in the config, each run draws its own; a resumed one goes on with the first's."""
    config, whole = run_config(randomness=dict(seed=None)), tmp_path / 'whole'
    assert train(config, whole) == 0
    killed = tmp_path / 'killed'
    killed.mkdir()
    seed = torch.load(next(whole.glob('epoch_*.pth')), weights_only=False)['meta']['seed']
    first = dict(config, randomness=dict(seed=seed))
    assert train(first, killed, kill_at=moments_of(whole) // 2) == -signal.SIGKILL
    assert train(config, killed, resume=True) == 0
    assert_same_bits(killed, whole)


def test_other_data_start_at_the_epoch(tmp_path):
    """Where batches cannot be those already seen, none is skipped, and a line says so."""
    config = run_config(work_dir=str(tmp_path), log_level='WARNING')
    Runner.from_cfg(config).train()
    config['train_cfg']['max_epochs'] = 5
    loader = dict(config['train_dataloader'], batch_size=3)
    runner = Runner.from_cfg(dict(config, train_dataloader=loader, resume=True))
    runner.train()
    assert runner.iter == 4 * 6 + 4
    logs = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'with another number of batches' in logs


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    """Whatever a kill left of ``last_checkpoint`` or of the checkpoint that it names."""
    assert latest_checkpoint(tmp_path) is None
    pointer = tmp_path / 'last_checkpoint'
    for age, name in enumerate(('epoch_1.pth', 'epoch_2.pth', 'best_epoch_3.pth', 'epoch_4.pth')):
        torch.save(dict(state_dict=dict(weight=torch.ones(1000))), tmp_path / name)
        os.utime(tmp_path / name, (age, age))
    content = (tmp_path / 'epoch_4.pth').read_bytes()
    ones = torch.ones(10).numpy().tobytes()
    assert ones in content
    newest = str(tmp_path / 'epoch_2.pth')
    # Cut, and with a weight that the disk has changed.
    for damaged in (b'PK', content[:-9], content.replace(ones, ones[:-1] + b'!', 1)):
        (tmp_path / 'epoch_4.pth').write_bytes(damaged)
        for left in ('', str(tmp_path / 'epoch_4.pth'), str(tmp_path / 'gone.pth'), '\0'):
            pointer.write_text(left)
            assert latest_checkpoint(tmp_path) == newest
    pointer.write_text(str(tmp_path / 'epoch_1.pth'))
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    for path in tmp_path.glob('epoch_*'):
        path.write_bytes(b'')
    with pytest.raises(InputError, match='no whole checkpoint'):
        latest_checkpoint(tmp_path)


def test_a_full_disk_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    runner = Runner.from_cfg(dict(run_config(), work_dir=str(tmp_path)))
    fsync, room = os.fsync, ['epoch_1.pth', 'last_checkpoint']

    def until_full(descriptor):
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', until_full)
    with pytest.raises(InputError, match=r'epoch_2.pth: No space left on device; .*epoch_1.pth$'):
        runner.train()
    assert not list(tmp_path.glob('.*'))
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')


@pytest.mark.slow
def test_a_detector_survives_twenty_kills(tmp_path):
    """MMDetection's command, killed with its workers at seeded moments of the clock."""
    config = write_tiny_project(tmp_path)
    workers = 'num_workers=2, persistent_workers=True'
    text = config.read_text().replace('num_workers=0, persistent_workers=False', workers, 1)
    text = text.replace('max_epochs=1, val_interval=1', 'max_epochs=4, val_interval=2')
    config.write_text(text.replace('save_optimizer=True', "save_optimizer=True, save_best='auto'"))
    start = time.monotonic()
    run_tool('train.py', config, '--work-dir', tmp_path / 'whole', folder=tmp_path)
    whole, kills, runs = time.monotonic() - start, 0, 0
    draw = random.Random(0)
    while kills < 20:
        runs, folder = runs + 1, tmp_path / f'run{runs}'
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--resume']
        command += ['--work-dir', str(folder)]
        while True:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                assert process.wait(timeout=draw.uniform(0.3, 1.1) * whole) == 0
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
        assert_same_bits(folder, tmp_path / 'whole')
