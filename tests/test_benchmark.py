"""The benchmark runs and reports; no test looks at how long anything took."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lip_mmdet.benchmark.command import main
from lip_mmdet.benchmark.measure import peak_memory
from lip_mmdet.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def test_operators_are_measured_with_torch_alone(tmp_path):
    code = (
        'import sys\n'
        'for name in ("mmdet", "mmcv", "mmengine"): sys.modules[name] = None\n'
        'from lip_mmdet.benchmark.command import main\n'
        'main(sys.argv[1:])\n'
    )
    out = tmp_path / 'figures.json'
    shape = ['--shape', '1', '4', '9', '8']
    arguments = ['operators', '--device', 'cpu', '--repeats', '2', *shape, '--out-json', str(out)]
    result = subprocess.run(
        [sys.executable, '-c', code, *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(out.read_text())['rows']
    assert {row['case'] for row in rows} == {
        'fused', 'composed', 'max_pool2d', 'avg_pool2d', 'copy',
    }  # fmt: skip
    assert {row['layout'] for row in rows} == {'contiguous', 'channels_last'}
    assert all(row['ratio'] == 1 for row in rows if row['case'] == 'copy')
    assert 'over_least' in result.stdout
    deviations = [row['deviation'] for row in rows if row['case'] == 'fused']
    assert len(deviations) == 4
    assert all(0 <= deviation < 1e-5 for deviation in deviations)


def test_backbones_are_measured():
    from lip_mmdet.benchmark.backbones import measure_backbones

    rows = measure_backbones(50, True, 'defaults', repeats=1, shape=(2, 3, 32, 32))
    assert [row['case'] for row in rows] == ['ResNet', 'LIP composed', 'LIP fused']
    assert all(row['milliseconds'] > 0 for row in rows)


def test_whole_detectors_are_measured():
    from lip_mmdet.benchmark.detectors import measure_detectors

    names = ('ResNet', 'LIP fused')
    rows = measure_detectors(18, repeats=1, names=names, shape=(1, 3, 64, 96))
    assert [row['case'] for row in rows] == list(names)
    assert rows[0]['ratio'] == 1
    assert rows[1]['ratio'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--dtypes', 'float99'], 'float99'),
        (['--layouts', 'sideways'], 'sideways'),
        (['--depths', '33'], '33'),
        (['--shape', '1', '2', '1', '0'], '0 is not positive'),
        (['--repeats', 'x'], 'x'),
    ],
)
def test_arguments_that_cannot_be_measured_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main(['operators', *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there():
    with pytest.raises(InputError, match=r'--device cuda: .* no GPU'):
        main(['operators', '--device', 'cuda'])


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 250_000).sum()


@pytest.mark.skipif(not Path('/proc/self/status').is_file(), reason='needs Linux')
def test_peak_memory_is_the_cases_own():
    """Not what the process that measures has held before."""
    held = torch.ones(100_000_000)
    assert 90 < peak_memory(allocate, (100,), 'cpu') < 200
    assert held.sum() > 0
