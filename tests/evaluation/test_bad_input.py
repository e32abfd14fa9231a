"""Whatever is wrong with a file: one clear line, exit status 2, nothing overwritten."""

import copy
import gzip
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lip_mmdet.files import write_json

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'eval_coco.py'

TRUTH = dict(
    images=[dict(id=i, width=100, height=80, file_name=f'{i}.jpg') for i in (1, 2, 3)],
    categories=[dict(id=c, name=n) for c, n in ((1, 'cat'), (2, 'dog'), (4, 'owl'))],
    annotations=[
        dict(id=i, image_id=i, category_id=c, bbox=[60, 40, 30, 30], area=900, iscrowd=0)
        for i, c in ((1, 1), (2, 2), (3, 4))
    ],
)
RESULTS = [
    dict(image_id=i, category_id=c, bbox=[60.0, 40.0, 30.0, 30.0], score=0.9)
    for i, c in ((1, 1), (2, 2), (3, 4))
]


def changed(content, *path_and_value):
    """Return a copy with one value replaced, or removed where the value is ``...``."""
    content = copy.deepcopy(content)
    *path, last, value = path_and_value
    inner = content
    for key in path:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(content)


def all_boxes(content, bbox):
    return json.dumps([dict(record, bbox=bbox) for record in content])


HUGE = '1' + '0' * 5000
DEEP = '[' * 100_000

# What the file holds, and what the line has to say about it.
BAD_TRUTH = {
    'empty': ('', 'is empty'),
    'blank': (' \n ', 'is empty'),
    'truncated': (json.dumps(TRUTH)[:-40], 'truncated'),
    'a comma too many': (json.dumps(TRUTH)[:-1] + ',}', 'double quotes'),
    'truncated in a string': (json.dumps(TRUTH)[:60], 'not valid JSON'),
    'no JSON': ('images: 3', 'not valid JSON'),
    'nested too deeply': (DEEP, 'nested too deeply'),
    'a list': (json.dumps(RESULTS), 'swapped'),
    'a number': ('3', 'not a COCO annotation file'),
    'an object of something else': ('{"type": "FeatureCollection"}', 'no images and no categories'),
    'no categories': (changed(TRUTH, 'categories', ...), 'no categories'),
    'no annotations': (changed(TRUTH, 'annotations', ...), '--submission'),
    'null annotations': (changed(TRUTH, 'annotations', None), 'not a list'),
    'no images in the list': (changed(TRUTH, 'images', []), 'lists no images'),
    'no categories in the list': (changed(TRUTH, 'categories', []), 'lists no categories'),
    'an annotation that is no object': (changed(TRUTH, 'annotations', 1, 7), 'number 2'),
    'captions': (
        changed(TRUTH, 'annotations', 0, dict(id=1, image_id=1, category_id=1, caption='a cat')),
        'has no bbox',
    ),
    'an image without id': (changed(TRUTH, 'images', 0, 'id', ...), 'image number 1 has no id'),
    'an id of thousands of digits': (
        json.dumps(TRUTH).replace('"id": 3', f'"id": {HUGE}'),
        'annotation file',
    ),
    'a NaN in a box': (changed(TRUTH, 'annotations', 0, 'bbox', 0, float('nan')), 'finite'),
    'an area as string': (changed(TRUTH, 'annotations', 0, 'area', '900'), 'without quotes'),
    'a strange crowd flag': (changed(TRUTH, 'annotations', 0, 'iscrowd', 2), 'iscrowd'),
}
BAD_RESULTS = {
    'empty': ('', 'is empty'),
    'truncated': (json.dumps(RESULTS)[:-30], 'truncated'),
    'a comma too many': (json.dumps(RESULTS)[:-1] + ',]', 'Expecting value'),
    'JSON lines': ('\n'.join(map(json.dumps, RESULTS)), 'a second text begins'),
    'a page': ('<!DOCTYPE html>', 'HTML'),
    'a pointer': ('version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
    'truncated after a record': (json.dumps(RESULTS).rpartition(',')[0], 'truncated'),
    'no text': (b'[\xff\xfe\x00\x01\x80'.decode('latin-1'), 'not'),
    'nested too deeply': (DEEP, 'nested too deeply'),
    'annotations': (json.dumps(TRUTH), 'holds an annotation file'),
    'wrapped': (json.dumps(dict(results=RESULTS)), 'a list of objects'),
    'a list of lists': (json.dumps([[1, 2, 3]]), 'no object'),
    'null': ('null', 'not a list'),
    'no score': (changed(RESULTS, 1, 'score', ...), 'number 2 has no score'),
    'no category': (changed(RESULTS, 1, 'category_id', ...), 'has no category_id'),
    'a score as string': (changed(RESULTS, 0, 'score', '0.9'), 'without quotes'),
    'a score that is null': (changed(RESULTS, 0, 'score', None), 'a number is expected'),
    'a score that is a list': (changed(RESULTS, 0, 'score', [0.9]), 'a number is expected'),
    'a score that is NaN': (changed(RESULTS, 0, 'score', float('nan')), 'finite'),
    'an infinite score': (changed(RESULTS, 0, 'score', float('inf')), 'finite'),
    'a huge score': (json.dumps(RESULTS).replace('0.9', '1' + '0' * 400), 'too large'),
    'three numbers for a box': (changed(RESULTS, 0, 'bbox', [1, 2, 3]), 'four numbers'),
    'a box as string': (changed(RESULTS, 0, 'bbox', '1 2 3 4'), 'four numbers'),
    'a box of strings': (changed(RESULTS, 0, 'bbox', list('1234')), 'without quotes'),
    'a NaN in a box': (changed(RESULTS, 2, 'bbox', 3, float('nan')), 'number 3 has bbox'),
    'a negative height': (changed(RESULTS, 0, 'bbox', 3, -1.0), 'negative'),
    'another dataset': (
        json.dumps([dict(r, image_id=r['image_id'] + 1000) for r in RESULTS]),
        'another dataset',
    ),
    'no category of the annotations': (
        json.dumps([dict(r, category_id=70 + c) for c, r in enumerate(RESULTS)]),
        'no detection has a category_id of the annotations, the first is 70',
    ),
}


def run_in_process(monkeypatch, capsys, *arguments):
    """Run the tool's main as its command line does; return exit status and standard error."""
    from importlib.util import module_from_spec, spec_from_file_location

    from lip_mmdet.command_line import run_tool

    spec = spec_from_file_location('eval_coco', TOOL)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['eval_coco.py', *map(str, arguments)])
    status = 0
    try:
        run_tool(tool.main)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.fixture
def refuses(tmp_path, monkeypatch, capsys):
    """Return a function that scores two files and checks how they are refused."""
    out = tmp_path / 'out.json'
    out.write_text('precious')

    def check(truth, results, complaint, *arguments):
        for name, content in (('ann.json', truth), ('results.json', results)):
            if content is not None:
                data = content if isinstance(content, bytes) else content.encode('latin-1')
                (tmp_path / name).write_bytes(data)
        files = ('--ann', tmp_path / 'ann.json', '--results', tmp_path / 'results.json')
        before = sorted(path.name for path in tmp_path.iterdir())
        status, err = run_in_process(monkeypatch, capsys, *files, '--out-json', out, *arguments)
        assert status == 2
        assert err.count('\n') == 1 and err.startswith('error: ')
        assert complaint in err
        assert len(err) < 500
        assert out.read_text() == 'precious'
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    return check


@pytest.mark.parametrize('case', BAD_TRUTH)
def test_bad_annotations_are_refused(refuses, case):
    content, complaint = BAD_TRUTH[case]
    refuses(content, json.dumps(RESULTS), complaint)


@pytest.mark.parametrize('case', BAD_RESULTS)
def test_bad_results_are_refused(refuses, case):
    content, complaint = BAD_RESULTS[case]
    refuses(json.dumps(TRUTH), content, complaint)


@pytest.mark.parametrize('case', ['a score as string', 'truncated', 'another dataset'])
def test_a_bad_baseline_is_refused(refuses, tmp_path, case):
    baseline = tmp_path / 'baseline.json'
    content, complaint = BAD_RESULTS[case]
    baseline.write_text(content)
    refuses(json.dumps(TRUTH), json.dumps(RESULTS), complaint, '--baseline', baseline)


def test_other_kinds_of_files_are_refused(refuses):
    truth, results = json.dumps(TRUTH), json.dumps(RESULTS)
    refuses(truth, gzip.compress(results.encode())[:-9], 'not a whole gzip')
    refuses(truth, pickle.dumps(RESULTS), 'pickle')
    refuses(truth, b'PK\x03\x04' + bytes(30), 'zip')


def test_missing_files_and_folders_are_refused(refuses, tmp_path):
    refuses(json.dumps(TRUTH), None, 'does not exist')
    refuses(json.dumps(TRUTH), '[]', 'is a folder', '--baseline', tmp_path)


def test_unwritable_outputs_are_refused_before_the_evaluation(refuses, tmp_path):
    files = (json.dumps(TRUTH), json.dumps(RESULTS))
    refuses(*files, 'is a folder', '--out-csv', tmp_path)
    # A file stands where a folder would have to be.
    refuses(*files, 'cannot write', '--out-md', tmp_path / 'ann.json' / 'table.md')
    refuses(*files, 'cannot write', '--report', tmp_path / 'ann.json')


OUTPUTS = {
    '--out-json': (),
    '--out-csv': (),
    '--out-md': (),
    '--report': (),
    '--submission': ('--alg', 'a', '--allow-missing'),
}


@pytest.mark.parametrize('option', OUTPUTS)
@pytest.mark.parametrize('fault', ['no folder', 'full device', 'full disk'])
def test_what_cannot_be_written_is_named_in_one_line(tmp_path, monkeypatch, capsys, option, fault):
    (tmp_path / 'ann.json').write_text(json.dumps(TRUTH))
    (tmp_path / 'results.json').write_text(json.dumps(RESULTS))
    out = {
        'no folder': tmp_path / 'ann.json' / 'out',  # a file stands where a folder would have to be
        'full device': Path('/dev/full'),
        'full disk': tmp_path / 'out',
    }[fault]
    if fault == 'full device' and (option in ('--report', '--submission') or not out.exists()):
        pytest.skip('no file, or no such device')
    files = ('--ann', tmp_path / 'ann.json', '--results', tmp_path / 'results.json')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == 'full disk':  # to a program both are a write that the system refuses
        import matplotlib.font_manager  # noqa: F401  writes a cache of its own

        resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        command = (*files, option, out, *OUTPUTS[option])
        status, err = run_in_process(monkeypatch, capsys, *command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines = [line for line in err.splitlines() if not line.startswith(('note', 'warning'))]
    assert status == 2 and len(lines) == 1 and lines[0].startswith(f'error: cannot write {out}'), (
        err
    )
    kept = [path.name for path in tmp_path.rglob('*') if path.is_file()]
    assert sorted(kept) == ['ann.json', 'results.json']


@pytest.mark.skipif(os.getuid() == 0, reason='root writes everywhere')
def test_a_folder_without_permission_is_named(refuses, tmp_path):
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    files = (json.dumps(TRUTH), json.dumps(RESULTS))
    refuses(*files, f'cannot write {locked}', '--out-csv', locked / 'out.csv')


def test_an_input_is_never_overwritten(refuses, tmp_path):
    files = (json.dumps(TRUTH), json.dumps(RESULTS))
    refuses(*files, 'is read and cannot be written', '--out-csv', tmp_path / 'results.json')
    refuses(*files, 'named for two outputs', '--out-csv', tmp_path / 'out.json')


def test_arguments_that_make_no_sense_are_refused(monkeypatch, capsys, tmp_path):
    for arguments, complaint in (
        ((), 'nothing to score'),
        (('--ann', 'a.json'), 'nothing to score'),
        (('config.py',), 'needs a checkpoint'),
        (('config.py', 'w.pth', '--results', 'r.json'), 'not both'),
        (('--ann', 'a.json', '--split', 'minival', '--results', 'r.json'), 'not both'),
        (('--split', 'minival', '--data-root', tmp_path, '--results', 'r'), 'instances_val2017'),
        (('--split', 'test-dev', '--results', 'r.json'), 'scored by its server'),
        (('--ann', 'a', '--results', 'r', '--submission', 'd'), '--alg'),
        (('--ann', 'a', '--results', 'r', '--reference', 'yolo'), 'sge-resnet-50'),
        (('--ann', 'a', '--results', 'r', '--images', tmp_path / 'no'), 'is not a folder'),
        (('--ann', 'a', '--results', 'r', '--resamples', '0'), 'at least 1'),
        (('--ann', 'a', '--results', 'r', '--seed', '-1'), 'at least 0'),
        (('--ann', 'a', '--results', 'r', '--max-dets', '0'), 'at least 1'),
        (('--ann', 'a', '--results', 'r', '--max-dets', '9' * 30), 'at most'),
        (('--ann', 'a', '--results', 'r', '--category-shift', '9' * 30), 'at most'),
        (
            ('--ann', 'a', '--results', 'r', '--submission', 'd', '--alg', 'x', '--baseline', 'b'),
            '--submission does not use --baseline',
        ),
        (('--check-submission', 'r.zip'), 'image_info'),
    ):
        status, err = run_in_process(monkeypatch, capsys, *arguments)
        assert status == 2 and complaint in err and err.count('\n') == 1, (arguments, err)


def test_boxes_that_merely_leave_the_image_are_scored(tmp_path, monkeypatch, capsys):
    # A detector may predict beyond the border; small boxes in the middle show that these are sizes.
    results = [dict(r, bbox=[80.0, 60.0, 30.0, 30.0]) for r in RESULTS]
    (tmp_path / 'ann.json').write_text(json.dumps(TRUTH))
    (tmp_path / 'results.json').write_text(json.dumps(results))
    files = ('--ann', tmp_path / 'ann.json', '--results', tmp_path / 'results.json')
    assert run_in_process(monkeypatch, capsys, *files)[0] == 0


def test_the_command_line_shows_no_traceback(tmp_path):
    (tmp_path / 'ann.json').write_text(json.dumps(TRUTH))
    (tmp_path / 'results.json').write_text('')
    files = ('--ann', tmp_path / 'ann.json', '--results', tmp_path / 'results.json')
    done = subprocess.run(
        [sys.executable, str(TOOL), *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f'error: results file {tmp_path / "results.json"} is empty\n'


def test_ctrl_c_leaves_no_half_written_file(tmp_path):
    (tmp_path / 'ann.json').write_text(json.dumps(TRUTH))
    # A results file that never ends: the tool waits for it with its outputs already open.
    results = tmp_path / 'results.json'
    os.mkfifo(results)
    out = tmp_path / 'out.json'
    out.write_text('precious')
    files = ('--ann', tmp_path / 'ann.json', '--results', results)
    tool = subprocess.Popen(
        [sys.executable, str(TOOL), *map(str, files), '--out-json', str(out)],
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background ignores Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # Interrupted as soon as it reads: earlier it may be about to open the outputs.
    deadline = time.monotonic() + 60
    writer = None
    while writer is None and time.monotonic() < deadline:
        try:
            writer = os.open(results, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            time.sleep(0.05)
    assert list(tmp_path.glob('.out.json.*'))
    tool.send_signal(signal.SIGINT)
    _, err = tool.communicate(timeout=60)
    os.close(writer)
    assert tool.returncode == 130 and 'Traceback' not in err
    assert out.read_text() == 'precious'
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'ann.json',
        'out.json',
        'results.json',
    ]


def test_interrupted_while_the_temporary_file_is_made(tmp_path, monkeypatch):
    touch = Path.touch

    def interrupted(path, **options):
        touch(path, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'touch', interrupted)
    (tmp_path / 'out.json').write_text('precious')
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / 'out.json', {})
    assert [path.name for path in tmp_path.iterdir()] == ['out.json']
    assert (tmp_path / 'out.json').read_text() == 'precious'
