"""tools/eval_coco.py from two files to every output, without torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from random_coco import random_dataset
from test_backends import pycocotools

ROOT = Path(__file__).resolve().parents[2]


def run_tool(*arguments, folder):
    command = [sys.executable, str(ROOT / 'tools' / 'eval_coco.py'), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def files(tmp_path):
    truth, results = random_dataset(9, images=10, objects=60, detections=200)
    (tmp_path / 'ann.json').write_text(json.dumps(truth))
    (tmp_path / 'a.json').write_text(json.dumps(results))
    (tmp_path / 'b.json').write_text(json.dumps(results[::2]))
    return tmp_path, truth, results


def test_scoring_imports_neither_torch_nor_mmdetection(files):
    folder, _, _ = files
    code = f"""
import runpy, sys
sys.argv = ['eval_coco.py', '--ann', 'ann.json', '--results', 'a.json', '--baseline', 'b.json']
runpy.run_path({str(ROOT / 'tools' / 'eval_coco.py')!r}, run_name='__main__')
heavy = {{'torch', 'mmengine', 'mmcv', 'mmdet', 'matplotlib', 'pandas', 'scipy'}}
sys.exit(f'imported {{heavy & set(sys.modules)}}' if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_json_equals_pycocotools_to_the_last_bit(files):
    folder, truth, results = files
    expected, _, _ = pycocotools(truth, results)
    for backend in ('auto', 'pycocotools'):
        options = ('--backend', backend, '--out-json', 'out.json')
        done = run_tool('--ann', 'ann.json', '--results', 'a.json', *options, folder=folder)
        content = json.loads((folder / 'out.json').read_text())
        assert list(content)[:6] == ['AP', 'AP50', 'AP75', 'APS', 'APM', 'APL']
        assert {name: content[name] for name in expected} == expected
        assert f'{100 * expected["AP"]:.1f}' in done.stdout


def test_an_empty_list_of_detections_scores_0_with_a_warning(files):
    folder, _, _ = files
    (folder / 'none.json').write_text('[]')
    options = ('--out-json', 'out.json')
    done = run_tool('--ann', 'ann.json', '--results', 'none.json', *options, folder=folder)
    assert done.stderr.count('\n') == 1 and 'no detections' in done.stderr
    content = json.loads((folder / 'out.json').read_text())
    assert all(content[name] == 0 for name in ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL'))


def test_files_are_written_though_nobody_reads_the_tables(files):
    folder, _, _ = files
    read, write = os.pipe()
    os.close(read)
    scored = ['--ann', 'ann.json', '--results', 'a.json', '--out-json', 'o.json', '--report', 'r']
    command = [sys.executable, str(ROOT / 'tools/eval_coco.py'), *scored]
    done = subprocess.run(command, cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1 and not done.stderr
    assert json.loads((folder / 'o.json').read_text())['AP'] > 0
    assert (folder / 'r/index.html').is_file()


def test_an_area_without_ground_truth_is_null(files):
    folder, truth, _ = files
    small = [a for a in truth['annotations'] if a['area'] < 900]
    (folder / 'ann.json').write_text(json.dumps(dict(truth, annotations=small)))
    run_tool('--ann', 'ann.json', '--results', 'a.json', '--out-json', 'o.json', folder=folder)
    content = json.loads((folder / 'o.json').read_text())
    assert content['APL'] is None and content['ARL'] is None and content['APS'] is not None


def test_the_report_is_one_page_that_needs_no_network(files):
    folder, truth, _ = files
    from PIL import Image

    for image in truth['images']:
        Image.new('RGB', (image['width'], image['height']), 'gray').save(
            folder / image['file_name']
        )
    truth['categories'][0]['name'] = '<script>$x$ & co'
    (folder / 'ann.json').write_text(json.dumps(truth))
    files = ('--ann', 'ann.json', '--results', 'a.json', '--baseline', 'b.json')
    report = ('--reference', 'sge-resnet-50', '--report', 'report', '--images', '.')
    run_tool(*files, *report, '--resamples', 20, '--label', 'a <b>', folder=folder)

    page = (folder / 'report' / 'index.html').read_text()
    pictures = {path.name for path in (folder / 'report').glob('*.png')}
    plots = {
        'precision_recall_by_iou.png',
        'precision_recall_by_area.png',
        'ap_over_iou.png',
        'ap_by_area.png',
        'ap_per_class.png',
        'errors.png',
    }
    assert pictures == plots | {f'worst_{n}.png' for n in range(1, 7)}
    assert page.count('<img src="data:image/png;base64,') == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', page) and '@import' not in page
    assert '<script' not in page and 'a &lt;b&gt;' in page and '&lt;script&gt;' in page
    for title in ('Against the baseline', 'What goes wrong', 'Classes', 'Worst images'):
        assert f'<h2>{title}</h2>' in page


def test_a_report_of_nothing_found_and_without_images(files):
    folder, _, _ = files
    (folder / 'none.json').write_text('[]')
    run_tool('--ann', 'ann.json', '--results', 'none.json', '--report', 'r', folder=folder)
    page = (folder / 'r' / 'index.html').read_text()
    assert 'holds no detections' in page and 'Worst images' not in page


def test_arms_of_several_trainings_stand_beside_each_other(files):
    folder, truth, results = files
    parts = {'c': results[1::2], 'd': results[:120]}
    for name, part in parts.items():
        (folder / f'{name}.json').write_text(json.dumps(part))
    arms = (
        '--results',
        'a.json',
        'b.json',
        '--baseline',
        'c.json',
        'd.json',
        '--baseline',
        'b.json',
    )
    options = ('--per-class', '--per-size', '--resamples', 30, '--max-dets', 20, '--out-json', 'o')
    done = run_tool('--ann', 'ann.json', *arms, *options, '--report', 'r', folder=folder)
    content = json.loads((folder / 'o').read_text())
    expected = [pycocotools(truth, r)[0] for r in (results, results[::2])]
    for name in ('AP', 'AP50', 'AP75', 'APS', 'APM', 'APL'):
        both = [figures[name] for figures in expected]
        assert content[name] == pytest.approx(sum(both) / 2)
        assert content['arms'][0]['figures'][name]['values'] == both
    assert [arm['name'] for arm in content['arms']] == ['measured', 'c', 'b']
    assert [arm['files'] for arm in content['arms'][1:]] == [['c.json', 'd.json'], ['b.json']]
    assert [c['name'] for c in content['comparisons']] == ['c', 'b']
    for compared in content['comparisons']:
        for row in (*compared['figures'].values(), *compared['per_class']):
            assert row['low'] <= row['high'] and 0 <= row['sign_turns'] <= 1
    assert '±' in done.stdout and 'AP by size' in done.stdout
    # Classes by the difference to the first baseline.
    gaps = {row['name']: row['difference'] for row in content['comparisons'][0]['per_class']}
    table = done.stdout.split('By class (%)')[1].split('Images that differ')[0]
    order = sorted(gaps, key=table.index)
    assert [gaps[name] for name in order] == sorted(gaps.values(), reverse=True)
    assert '<h2>Against c</h2>' in (folder / 'r' / 'index.html').read_text()
