"""Tables, files, references and splits say what the evaluation says."""

import csv
import io
import json

import numpy as np
import pytest
from random_coco import random_dataset
from rich.console import Console
from test_backends import box, dataset, pycocotools

from lip_mmdet import evaluation
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import judge, tables
from lip_mmdet.evaluation.published import differences


@pytest.fixture(scope='module')
def scored():
    truth, results = random_dataset(7, images=30, objects=200, detections=600)
    checked = evaluation.ground_truth_from(truth, 'truth')
    detections = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, detections)
    return truth, results, evaluation.break_down(result, checked, detections)


def test_figures_of_a_class_are_pycocotools_on_that_class_alone(scored):
    truth, results, breakdown = scored
    for row in breakdown.per_class:
        alone = dict(
            truth,
            categories=[c for c in truth['categories'] if c['id'] == row['id']],
            annotations=[a for a in truth['annotations'] if a['category_id'] == row['id']],
        )
        found = [r for r in results if r['category_id'] == row['id']]
        expected, _, _ = pycocotools(alone, found)
        assert {name: row[name] for name in expected} == expected
        assert row['detections'] == len(found)
        assert row['objects'] == sum(not a['iscrowd'] for a in alone['annotations'])


def test_ap_by_iou_threshold_averages_to_ap(scored):
    breakdown = scored[2]
    assert [row['IoU'] for row in breakdown.per_iou] == [
        0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
    ]  # fmt: skip
    assert breakdown.per_iou[0]['AP'] == breakdown.figures['AP50']
    assert breakdown.per_iou[5]['AP'] == breakdown.figures['AP75']
    for key, figure in (('AP', 'AP'), ('AR', 'AR100')):
        mean = np.mean([row[key] for row in breakdown.per_iou])
        assert mean == pytest.approx(breakdown.figures[figure], abs=1e-12)


def test_ap_by_size_is_pycocotools_with_these_area_ranges(scored):
    truth, results, _ = scored
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, found)
    rows = evaluation.ap_by_size(result, checked, found)
    assert [row['size'] for row in rows[:3]] == ['0-8', '8-16', '16-32']
    assert sum(row['objects'] > 0 for row in rows) > 2
    for row in rows:
        low, _, high = row['size'].partition('-')
        ranges = [(int(low) ** 2, int(high or 1e5) ** 2)]
        precision, _, _ = judge.accumulate(
            checked, found, result.category_ids, result.iou_thresholds, ranges, (100,)
        )
        defined = precision[precision > -1]
        assert row['AP'] == (defined.mean() if defined.size else None)


def test_counts_are_those_of_the_files():
    truth = dataset(
        [(1, 1, [0, 0, 10, 10], 0), (1, 1, [0, 0, 50, 50], 0), (2, 1, [0, 0, 200, 200], 1)]
    )
    checked = evaluation.ground_truth_from(truth, 'truth')
    results = [box(1, 1, [0, 0, 100, 100], 0.5), box(1, 1, [0, 0, 32, 32], 0.5)]
    found = evaluation.detections_from(results, checked, 'results')
    counts = evaluation.break_down(evaluation.evaluate(checked, found), checked, found).counts
    assert counts['images'] == 2
    assert counts['objects'] == {'all': 2, 'small': 1, 'medium': 1, 'large': 0}
    assert counts['crowds'] == {'all': 1, 'small': 0, 'medium': 0, 'large': 1}
    # An area of 32 x 32 counts as small and as medium, as in COCO's ranges.
    assert counts['detections'] == {'all': 2, 'small': 1, 'medium': 1, 'large': 1}


def test_csv_and_json_hold_the_figures_at_full_precision(scored):
    breakdown = scored[2]
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(breakdown))))
    assert [row['class'] for row in rows] == ['all'] + [r['name'] for r in breakdown.per_class]
    content = json.loads(json.dumps(evaluation.Summary(breakdown).as_json()))
    for name, value in breakdown.figures.items():
        assert content[name] == value
        assert float(rows[0][name]) == value
    assert float(rows[2]['AP75']) == breakdown.per_class[1]['AP75']


def test_a_published_row_stands_beside_the_measured_one(scored):
    breakdown = scored[2]
    reference = evaluation.find_reference('lip-resnet-101')
    text = tables.markdown(evaluation.Summary(breakdown, 'ours', reference=reference)).splitlines()
    assert text[0] == '| | AP | AP50 | AP75 | APS | APM | APL |'
    cells = [cell.strip() for cell in text[3].strip('|').split('|')]
    assert cells == ['lip-resnet-101 (minival)', '41.7', '63.6', '45.6', '25.2', '45.8', '-']
    gap = differences(breakdown.figures, reference.figures)
    assert gap['AP'] == pytest.approx(breakdown.figures['AP'] - 0.417)
    assert gap['APL'] is None
    assert f'{100 * gap["AP"]:+.1f}' in text[4]


def test_every_published_row_has_a_source_and_plausible_figures():
    rows = evaluation.references()
    assert {'lip-resnet-101', 'lip-resnet-101-md', 'sge-resnet-50', 'sge-resnet-101'} <= set(rows)
    for row in rows.values():
        assert row.source and row.split in ('minival', 'test-dev')
        assert all(0.1 < value < 0.8 for value in row.figures.values())
    with pytest.raises(InputError, match='lip-resnet-101-md'):
        evaluation.find_reference('resnet')


def test_the_terminal_table_survives_names_that_look_like_markup():
    truth = dataset([(1, 1, [0, 0, 10, 10], 0)])
    truth['categories'][0]['name'] = '[bold]x[/red]'
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from([], checked, 'results')
    breakdown = evaluation.break_down(evaluation.evaluate(checked, found), checked, found)
    text = io.StringIO()
    console = Console(file=text, width=120)
    summary = evaluation.Summary(breakdown)
    tables.print_tables(tables.tables_of(summary, per_class=True), console)
    assert '[bold]x[/red]' in text.getvalue()


def test_minival_is_found_under_either_name_and_its_size_is_checked(tmp_path):
    annotations = tmp_path / 'annotations'
    annotations.mkdir()
    with pytest.raises(InputError, match=r'instances_val2017.*instances_minival2014'):
        evaluation.find_split('minival', tmp_path)
    old, new = (annotations / f'instances_{name}.json' for name in ('minival2014', 'val2017'))
    old.write_text('{}')
    assert evaluation.find_split('minival', tmp_path) == (old, tmp_path / 'val2014')
    new.write_text('{}')
    assert evaluation.find_split('minival', tmp_path) == (new, tmp_path / 'val2017')

    def notes(images, categories, split='minival', reference=None):
        content = dict(
            images=[dict(id=i) for i in range(images)],
            categories=[dict(id=c) for c in range(categories)],
            annotations=[],
        )
        truth = evaluation.ground_truth_from(content, 'x')
        return evaluation.split_notes(truth, split, reference)

    assert notes(5000, 80) == []
    assert '4999 images' in notes(4999, 80)[0] and '3 classes' in notes(5000, 3)[0]
    assert notes(4999, 80, split=None) == []
    published = evaluation.references()
    assert '4999 images' in notes(4999, 80, None, published['lip-resnet-101'])[0]
    (note,) = notes(4999, 80, None, published['lip-resnet-101-md'])
    assert 'published for test-dev, a different split' in note
