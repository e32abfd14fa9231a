"""What a checkpoint may hold on torch >= 2.6, where `weights_only` is on and stays on."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from lip_mmdet.engine.checkpoints import allow_runner_checkpoints, check_checkpoint
from lip_mmdet.errors import InputError

needs_weights_only = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'), reason='needs torch 2.6'
)


@pytest.fixture(autouse=True)
def allowed():
    allow_runner_checkpoints()


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
    log = torch.load(runner_checkpoint)['message_hub']['log_scalars']['train/loss']
    assert isinstance(log, HistoryBuffer)
    assert log.data[0].tolist() == [1.5, 2.5, 0.5, 0.25, 3]
    assert log.statistics('mean') == pytest.approx(1.55)


class Getattr:
    """Pickles as ``getattr(owner, name)``, the way to anything if it were let through."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@needs_weights_only
@pytest.mark.parametrize(
    ('owner', 'name'),
    [(HistoryBuffer, '__init__'), (HistoryBuffer, 'register_statistics'), (np.ndarray, 'tofile')],
)
def test_getattr_reaches_nothing_but_statistics(tmp_path, owner, name):
    path = tmp_path / 'foreign.pth'
    torch.save(dict(state_dict={}, extra=Getattr(owner, name)), path)
    with pytest.raises(InputError, match='was refused'):
        check_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)


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
    check_checkpoint(path)
    loaded = torch.load(path)['log']
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics('mean') == 2
    assert log.statistics('mean') == 2


@pytest.mark.parametrize('zipped', [True, False])
def test_missing_cut_and_foreign_files_say_so(tmp_path, zipped):
    whole = tmp_path / 'whole.pth'
    torch.save(dict(a=torch.zeros(1000)), whole, _use_new_zipfile_serialization=zipped)
    check_checkpoint(whole)
    content = whole.read_bytes()
    cuts = {f'cut{at}': content[:at] for at in range(1, len(content) - 300, 409)}
    for name, broken in {**cuts, 'empty': b'', 'text': b'hello ' * 99}.items():
        path = tmp_path / f'{name}.pth'
        path.write_bytes(broken)
        with pytest.raises(InputError, match=f'{name}.pth is not a whole PyTorch checkpoint'):
            check_checkpoint(path)
    with pytest.raises(InputError, match='no checkpoint at'):
        check_checkpoint(tmp_path / 'nowhere.pth')
