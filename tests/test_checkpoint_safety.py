"""What a checkpoint may hold on torch >= 2.6, by whichever of MMEngine's roads it is loaded."""

import functools
import http.server
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner
from tiny_detector import write_tiny_project

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.engine.safe_loading import check_checkpoint
from lip_mmdet.errors import InputError

needs_weights_only = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'), reason='needs torch 2.6'
)


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), 'cpu')


@pytest.fixture
def runner_checkpoint(tmp_path):
    """What a Runner saves, with every kind of number that a log may hold."""
    hub = MessageHub.get_instance('test_checkpoint_safety')
    for value in (1.5, torch.tensor(2.5), np.float32(0.5), np.float64(0.25), np.int64(3)):
        hub.update_scalar('train/loss', value)
    hub.update_info('best', np.float64(0.5))
    weight = torch.nn.Parameter(torch.ones(2))
    content = dict(
        meta=dict(epoch=1, dataset_meta=dict(classes=('cat',))),
        state_dict=dict(weight=weight.data),
        optimizer=torch.optim.AdamW([weight]).state_dict(),
        message_hub=hub.state_dict(),
    )
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    return path


def test_a_runners_log_comes_back(runner_checkpoint):
    check_checkpoint(runner_checkpoint)
    for loader in (load, torch.load):
        log = loader(runner_checkpoint)['message_hub']['log_scalars']['train/loss']
        assert isinstance(log, HistoryBuffer)
        assert log.data[0].tolist() == [1.5, 2.5, 0.5, 0.25, 3]
        assert log.statistics('mean') == pytest.approx(1.55)


@needs_weights_only
def test_a_load_leaves_the_allow_list_whole(runner_checkpoint):
    """OneDL's MMEngine withdraws what it declares, and with it what we declared too."""
    before = set(torch.serialization.get_safe_globals())
    load(runner_checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([np.ndarray, np.dtype]):
        pass
    load(runner_checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_attacks(folder):
    """Write files that run or reach what they may not; return their paths and what they touch."""
    witness = folder / 'witness'
    attacks = {
        'call': Call(Path.touch, witness),
        'system': Call(os.system, f'touch {witness}'),  # torch has words of its own for this one
        'init': Call(getattr, HistoryBuffer, '__init__'),
        'register': Call(getattr, HistoryBuffer, 'register_statistics'),
        'tofile': Call(getattr, np.ndarray, 'tofile'),
    }
    for name, attack in attacks.items():
        torch.save(dict(state_dict={}, meta={}, extra=attack), folder / f'{name}.pth')
    return [folder / f'{name}.pth' for name in attacks], witness


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    return folder, write_tiny_project(folder)


def build_runner(project, **options):
    from mmengine.config import Config

    folder, path = project
    config = Config.fromfile(path)
    config.update(work_dir=str(folder / 'work'), experiment_name=f'safety{id(options)}', **options)
    return Runner.from_cfg(config)


@pytest.fixture(scope='module')
def runner(project):
    return build_runner(project)


@pytest.fixture(scope='module')
def address(project):
    """An address on this machine that serves the project's folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(project[0]))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


ROADS = {
    'Runner.load_checkpoint': lambda runner, config, path: runner.load_checkpoint(path),
    'Runner.resume': lambda runner, config, path: runner.resume(path),
    'load_from': lambda runner, config, path: load_or_resume(runner, path, resume=False),
    'resume': lambda runner, config, path: load_or_resume(runner, path, resume=True),
    'init_detector': lambda runner, config, path: init_detector(config, path, device='cpu'),
    'DetInferencer': lambda runner, config, path: DetInferencer(config, path, device='cpu'),
}


def load_or_resume(runner, path, resume):
    runner._load_from, runner._resume, runner._has_loaded = path, resume, False
    runner.load_or_resume()


@needs_weights_only
@pytest.mark.parametrize('road', ROADS)
def test_no_road_runs_foreign_code(project, runner, road):
    folder, config = project
    paths, witness = write_attacks(folder)
    for path in paths:
        with pytest.raises(InputError, match=rf'{path.name} was refused: it holds .*nothing was'):
            ROADS[road](runner, str(config), str(path))
    assert not witness.exists()


@needs_weights_only
def test_an_address_is_checked_as_a_file_is(project, address, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(project[0] / 'hub'))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    paths, witness = write_attacks(project[0])
    for path in paths:
        with pytest.raises(InputError, match=f'{path.name} was refused'):
            load(f'{address}/{path.name}')
    assert not witness.exists()
    torch.save(dict(state_dict=dict(a=torch.ones(2))), project[0] / 'good.pth')
    assert load(f'{address}/good.pth')['state_dict']['a'].tolist() == [1, 1]
    with pytest.raises(InputError, match=r'nowhere.pth cannot be fetched \(HTTP Error 404'):
        load(f'{address}/nowhere.pth')


@needs_weights_only
def test_the_attacks_are_real(tmp_path):
    paths, witness = write_attacks(tmp_path)
    for path in paths:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path)
        torch.load(path, weights_only=False)
    assert witness.exists()
    with pytest.raises(InputError, match=r'call.pth was refused: it holds pathlib'):
        check_checkpoint(paths[0])


@needs_weights_only
def test_a_log_cannot_change_what_other_logs_compute(tmp_path, monkeypatch):
    """MMEngine restores its table of statistics from any log that it loads."""
    log = HistoryBuffer([1.0, 3.0], [1, 1])
    state = log.__getstate__()
    state['statistics_methods'] = {'mean': HistoryBuffer.max}
    path = tmp_path / 'swapped.pth'
    with monkeypatch.context() as patched:
        patched.setattr(HistoryBuffer, '__getstate__', lambda self: state)
        torch.save(dict(state_dict={}, log=log), path)
    loaded = load(path)['log']
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics('mean') == 2
    assert log.statistics('mean') == 2


@pytest.mark.parametrize('zipped', [True, False])
def test_missing_and_cut_files_say_so(tmp_path, zipped):
    whole = tmp_path / 'whole.pth'
    torch.save(dict(a=torch.zeros(1000)), whole, _use_new_zipfile_serialization=zipped)
    check_checkpoint(whole)
    content = whole.read_bytes()
    cuts = {f'cut{at}': content[:at] for at in range(1, len(content) - 300, 409)}
    for name, broken in {**cuts, 'empty': b'', 'text': b'hello ' * 99}.items():
        path = tmp_path / f'{name}.pth'
        path.write_bytes(broken)
        with pytest.raises(InputError, match=f'{name}.pth is not a whole PyTorch checkpoint'):
            load(path)
        if zipped and hasattr(torch.serialization, 'get_safe_globals') and len(broken) > 600:
            with pytest.raises(InputError, match='is not a whole PyTorch checkpoint'):
                check_checkpoint(path)
    other = tmp_path / 'weights.safetensors'
    other.write_bytes(b'\x18\0\0\0\0\0\0\0{"a":{"dtype":"F32"')
    with pytest.raises(InputError, match='what safetensors'):
        load(other)
    torch.save([1], whole, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match='holds no state_dict'):
        load(whole)
    for judge in (load, check_checkpoint):
        with pytest.raises(InputError, match='no checkpoint at'):
            judge(tmp_path / 'nowhere.pth')


def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(2))), path)
    loads = []
    original = torch.load
    monkeypatch.setattr(torch, 'load', lambda *a, **k: loads.append(a) or original(*a, **k))
    check_checkpoint(path)
    load(path)
    assert len(loads) == 1
