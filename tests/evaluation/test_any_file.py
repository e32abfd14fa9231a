"""Whatever a file holds: pycocotools' figures or one line, never a traceback."""

import contextlib
import copy
import io
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lip_mmdet.command_line import run_tool

SPEC = spec_from_file_location(
    'eval_coco', Path(__file__).resolve().parents[2] / 'tools' / 'eval_coco.py'
)
TOOL = module_from_spec(SPEC)
SPEC.loader.exec_module(TOOL)

TRUTH = dict(
    images=[dict(id=i, width=200, height=150, file_name=f'tray_{i}.png') for i in (1, 2, 3)],
    categories=[dict(id=3, name='bolt'), dict(id=7, name='nut')],
    annotations=[
        dict(id=1, image_id=1, category_id=3, bbox=[20, 30, 40, 30], area=1200, iscrowd=0),
        dict(id=2, image_id=1, category_id=7, bbox=[100, 60, 24, 24], area=576, iscrowd=0),
        dict(id=3, image_id=2, category_id=3, bbox=[50, 50, 60, 40], area=2400, iscrowd=0),
        dict(id=4, image_id=2, category_id=7, bbox=[10, 100, 20, 20], area=400, iscrowd=1),
    ],
)
RESULTS = [
    dict(image_id=i, category_id=c, bbox=box, score=score)
    for i, c, box, score in (
        (1, 3, [20.5, 30.5, 40.5, 30.5], 0.9),
        (1, 7, [100.5, 60.5, 24.5, 24.5], 0.8),
        (2, 3, [50.5, 50.5, 60.5, 40.5], 0.7),
        (2, 7, [10.5, 100.5, 20.5, 20.5], 0.6),
        (2, 3, [20.5, 30.5, 40.5, 30.5], 0.65),
    )
]
# Refused on purpose though pycocotools gives a figure: what is no number, or means nothing.
ON_PURPOSE = (
    'finite', 'negative size', 'iscrowd', 'LVIS', 'large', 'another dataset', 'NaN',
    'no detection has',
)  # fmt: skip
VALUES = [
    None, True, False, 0, 1, 2, 3, -1, 7, 1.0, 3.0, 1.5, -0.5, 10**19, 10**400, float('nan'),
    float('inf'), float('-inf'), '', '0', '1', '3', 'x', '[/x]', '\ud800', '$x^$', 'tray_1',
    [], [1], [1, 2, 3, 4], [1, 2, -3, 4], [None] * 4, ['1', '2', '3', '4'], [True] * 4, [[]] * 4,
    [1e308] * 4, {}, {'a': 1}, 'gone',
]  # fmt: skip
KEYS = [
    *((section, key) for section, key in (
        ('images', 'id'), ('images', 'width'), ('images', 'height'), ('images', 'file_name'),
        ('images', 'neg_category_ids'), ('categories', 'id'), ('categories', 'name'),
        ('annotations', 'id'), ('annotations', 'image_id'), ('annotations', 'category_id'),
        ('annotations', 'bbox'), ('annotations', 'area'), ('annotations', 'iscrowd'),
        ('annotations', 'ignore'), ('annotations', 'segmentation'), ('results', 'image_id'),
        ('results', 'category_id'), ('results', 'bbox'), ('results', 'score'),
    )),
    *((section, None) for section in ('images', 'categories', 'annotations', 'results')),
    ('truth', 'images'), ('truth', 'categories'), ('truth', 'annotations'),
]  # fmt: skip
changes = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES), st.sampled_from([0, 1, 3, 'all'])),
    min_size=1,
    max_size=3,
)


def changed(content):
    """Return annotations and results with values in the place of others, 'gone' for no key."""
    truth, results = copy.deepcopy(TRUTH), copy.deepcopy(RESULTS)
    for (section, key), value, where in content:
        if section == 'truth':
            truth.pop(key, None) if value == 'gone' else truth.__setitem__(key, value)
            continue
        records = results if section == 'results' else truth.get(section)
        if not isinstance(records, list):
            continue
        for row in range(len(records)) if where == 'all' else [where]:
            if row >= len(records):
                continue
            if key is None:
                records[row] = copy.deepcopy(value)
            elif isinstance(records[row], dict):
                records[row].pop(key, None)
                if value != 'gone':
                    records[row][key] = copy.deepcopy(value)
    return truth, results


def by_pycocotools(truth, results, stream=None):
    """Return pycocotools' AP, AP50 and so on; None where it raises."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            coco = COCO()
            coco.dataset = copy.deepcopy(truth)
            assert isinstance(truth, dict)
            coco.createIndex()
            scored = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), 'bbox')
            scored.evaluate()
            scored.accumulate()
            scored.summarize()
            return scored.stats.tolist()
        except Exception:
            return None


def by_the_tool(folder, truth, results, *options):
    """Run the tool as its command line does; return status, standard error and the JSON."""
    (folder / 'ann.json').write_text(json.dumps(truth))
    (folder / 'res.json').write_text(json.dumps(results))
    files = ['--ann', folder / 'ann.json', '--results', folder / 'res.json']
    out = folder / 'out.json'
    out.unlink(missing_ok=True)
    arguments, sys.argv = sys.argv, ['eval_coco.py', *map(str, files), '--out-json', str(out)]
    sys.argv += map(str, options)
    err, status = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            run_tool(TOOL.main)
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = arguments
    return status, err.getvalue(), json.loads(out.read_text()) if out.exists() else None


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(changes)
@example([(('annotations', 'id'), 1, 'all')])
@example([(('annotations', 'id'), 9.007e11, 3), (('annotations', 'id'), 9.007e11, 1)])
@example([(('images', 'id'), 1, 1)])
@example([(('annotations', 'bbox'), ['1', '2', '3', '4'], 0)])
@example([(('annotations', 'area'), float('nan'), 0)])
@example([(('annotations', 'category_id'), 'x', 0)])
@example([(('results', 'score'), 'gone', 0), (('results', 'category_id'), 'x', 0)])
def test_wrong_values_at_every_key(tmp_path, content):
    truth, results = changed(content)
    expected = by_pycocotools(truth, results)
    status, err, found = by_the_tool(tmp_path, truth, results, '--per-class')
    if status == 0:
        if expected is not None and not any('"0"' in json.dumps(a) for a in _flags(truth)):
            figures = list(found.values())[:12]
            assert figures == [None if x == -1 else x for x in expected], err
        return
    assert status == 2
    assert err.count('\n') == 1 and err.startswith('error: ') and len(err) < 600, err
    if expected is not None and max(expected) > -1:
        assert any(reason in err for reason in ON_PURPOSE), (expected, err)


def _flags(truth):
    records = truth.get('annotations') if isinstance(truth, dict) else None
    return [a.get('iscrowd') for a in records or [] if isinstance(a, dict)]
