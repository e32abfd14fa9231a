"""Results that are meant otherwise are named; good ones of every kind are not."""

import json
import os
import threading

import numpy as np
import pytest
from random_coco import random_dataset
from test_any_file import RESULTS, TRUTH, by_pycocotools, by_the_tool

from lip_mmdet import evaluation
from lip_mmdet.errors import InputError


def detector(seed, noise, found=0.8, false=2, objects=300, images=60, categories=6, first=1):
    """Return annotations and a detector's results: found objects, jittered, and false alarms."""
    random = np.random.default_rng(seed)
    truth, _ = random_dataset(seed, images, categories, objects, detections=0)
    ids = sorted(c['id'] for c in truth['categories'])
    renumbered = {old: new for new, old in enumerate(ids, start=first)}
    for record in truth['categories']:
        record['id'] = renumbered[record['id']]
    results = []
    for record in truth['annotations']:
        record['category_id'] = renumbered[record['category_id']]
        box = np.array(record['bbox'])
        if random.random() < found:
            box = box + random.normal(0, noise, 4) * box[[2, 3, 2, 3]]
            box[2:] = np.abs(box[2:])
            results.append(dict(record, bbox=box.tolist(), score=random.uniform(0.3, 1)))
        for _ in range(false):
            box = [*random.uniform(0, 500, 2), *random.uniform(5, 120, 2)]
            category = int(random.integers(first, first + categories))
            results.append(dict(record, bbox=box, category_id=category, score=random.random() / 2))
    keys = ('image_id', 'category_id', 'bbox', 'score')
    return truth, [{key: record[key] for key in keys} for record in results]


def notes(truth, results, **options):
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(results, checked, 'results', **options)
    return checked.notes + evaluation.notes_on(found, checked)


@pytest.mark.parametrize(
    'kind',
    [
        dict(noise=0.02),
        dict(noise=0.15, found=0.5, false=8),
        dict(noise=0.3, found=0.6),  # a poor one
        dict(noise=0.05, categories=1),
        dict(noise=0.05, first=0, found=0.95, false=30),
        dict(noise=0.05, objects=1, images=1),
        dict(noise=0.05, objects=8, images=4, false=0),
    ],
)
def test_good_results_of_five_detectors_get_no_warning(kind):
    for seed in range(5):
        truth, results = detector(seed, **kind)
        assert not [note for note in notes(truth, results) if 'warning' in note]


BOXES = {
    'centres': lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    'corners': lambda x, y, w, h: [x, y, x + w, y + h],
    'fractions': lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480],
    'fractions of the image, as centres': lambda x, y, w, h: [
        (x + w / 2) / 640, (y + h / 2) / 480, w / 640, h / 480,
    ],
    '[y, x, height, width]': lambda x, y, w, h: [y, x, h, w],
    'times 0.5': lambda x, y, w, h: [2 * x, 2 * y, 2 * w, 2 * h],
    'as corners': lambda x, y, w, h: [2 * x, 2 * y, 2 * (x + w), 2 * (y + h)],
    'fractions of the image times': lambda x, y, w, h: [x, y * 4 / 3, w, h * 4 / 3],
    'detections none have IoU': lambda x, y, w, h: [9999 - x, y, w, h],
}  # fmt: skip


@pytest.mark.parametrize('kind', BOXES)
def test_boxes_of_another_format_are_named(kind):
    truth, results = detector(1, noise=0.02)
    truth['images'] = [dict(image, height=480) for image in truth['images']]
    results = [dict(r, bbox=BOXES[kind](*r['bbox'])) for r in results]
    assert any(n.startswith('warning:') and kind in n for n in notes(truth, results))


@pytest.mark.parametrize('first', [1, 101])
def test_classes_in_another_order_are_named(first):
    truth, results = detector(1, noise=0.02)
    order = dict(zip(range(1, 7), (first + place for place in (3, 0, 4, 1, 5, 2))))
    wrong = [dict(r, category_id=order[r['category_id']]) for r in results]
    said = f'those of category id {first} on 2, {first + 1} on 4, {first + 2} on 6, ...'
    if first == 1:
        assert any(said in note for note in notes(truth, wrong))
    else:
        with pytest.raises(InputError, match=said):
            notes(truth, wrong)


def test_image_ids_shifted_by_one_and_repeated_results_are_named():
    truth, results = detector(1, noise=0.02)
    ids = sorted(image['id'] for image in truth['images'])
    for step, said in ((-1, 'the next image id'), (1, 'the previous image id')):
        moved = [dict(r, image_id=ids[(ids.index(r['image_id']) + step) % 60]) for r in results]
        assert any(said in note for note in notes(truth, moved))
    assert any('repeat another' in note for note in notes(truth, results * 2))


@pytest.mark.parametrize('kind', ['fractions', 'corners'])
def test_annotations_that_are_fractions_or_corners_are_named(kind):
    read = {
        'fractions': lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480],
        'corners': lambda x, y, w, h: [x, y, x + w, y + h],
    }[kind]
    truth, _ = detector(1, noise=0.02)
    for image in truth['images']:
        image.update(width=640, height=480)
    records = truth['annotations']
    for record in records:
        record.update(bbox=[300, 200, 200, 100], area=20000)
    assert not evaluation.ground_truth_from(truth, 'truth').notes
    for record in records:
        record['bbox'] = read(*record['bbox'])
    assert any(kind in note for note in evaluation.ground_truth_from(truth, 'truth').notes)


@pytest.mark.parametrize(('factor', 'named'), [(0.3, 0), (1, 0), (0, 1), (0.01, 1), (25.4, 1)])
def test_areas_in_another_unit_are_named(factor, named):
    truth, _ = detector(1, noise=0.02)
    for record in truth['annotations']:
        record['area'] = factor * record['bbox'][2] * record['bbox'][3]
    said = [n for n in evaluation.ground_truth_from(truth, 'truth').notes if 'APS' in n]
    assert len(said) == named


@pytest.mark.parametrize('first', [0, 1])
@pytest.mark.parametrize('shift', [1, -1])
def test_shifted_classes_are_named_and_mapped(first, shift):
    truth, results = detector(2, noise=0.05, first=first)
    # A group that nothing belongs to, as Roboflow writes one.
    truth['categories'].append(dict(id=first - 1, name='group'))
    wrong = [dict(r, category_id=r['category_id'] - shift) for r in results]
    assert any(f'--category-shift {shift} ' in note for note in notes(truth, wrong))
    mapped = notes(truth, wrong, category_shift=shift)
    assert not any('warning' in note for note in mapped)


def test_positions_of_which_the_first_are_ids_are_named():
    """As the 80 classes of COCO counted without gaps, of which eleven are right by chance."""
    truth, results = detector(4, noise=0.05, false=0)
    for records in (truth['categories'], truth['annotations'], results):
        for record in records:
            key = 'id' if records is truth['categories'] else 'category_id'
            record[key] += record[key] > 3
    wrong = [dict(r, category_id=r['category_id'] - (r['category_id'] > 3)) for r in results]
    assert any('--category-positions 1 ' in note for note in notes(truth, wrong))
    assert not any('warning' in note for note in notes(truth, results))


@pytest.mark.parametrize(('first', 'ids'), [(0, [0, 1, 3, 7]), (1, [1, 3, 4, 7])])
def test_positions_in_the_list_of_classes_are_named_and_mapped(first, ids):
    truth = json.loads(json.dumps(TRUTH))
    truth['categories'] = [dict(id=i, name=str(i)) for i in ids]
    wrong = [dict(r, category_id=ids.index(r['category_id']) + first) for r in RESULTS]
    assert any(f'--category-positions {first} ' in note for note in notes(truth, wrong))
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(wrong, checked, 'results', category_positions=first)
    figures = evaluation.figures(evaluation.evaluate(checked, found))
    assert figures['AP'] == by_pycocotools(truth, RESULTS)[0]


def test_image_ids_by_file_name_number_or_quotes():
    truth = json.loads(json.dumps(TRUTH))
    expected = by_pycocotools(truth, RESULTS)[0]
    names = {1: 'a/07.png', 2: 'a/08.png', 3: 'b/09.png'}
    for image in truth['images']:
        image['file_name'] = names[image['id']]
    for write in (str, names.get, lambda i: names[i][2:], lambda i: names[i][2:4],
                  lambda i: int(names[i][2:4]), float, lambda i: f'/data/{names[i]}',
                  lambda i: names[i][2:4] + '.jpg'):  # fmt: skip
        results = [dict(r, image_id=write(r['image_id'])) for r in RESULTS]
        checked = evaluation.ground_truth_from(truth, 'truth')
        found = evaluation.detections_from(results, checked, 'results')
        assert evaluation.figures(evaluation.evaluate(checked, found))['AP'] == expected
        assert write is float or 'mapped' in found.notes[0]
    results = [dict(r, image_id=f'{n}/{names[r["image_id"]]}') for n, r in enumerate(RESULTS)]
    with pytest.raises(InputError, match='another dataset'):  # two of them would be one image
        notes(truth, results)
    truth['images'][2]['file_name'] = 'c/07.png'
    results = [dict(r, image_id=names[r['image_id']][2:4]) for r in RESULTS]
    with pytest.raises(InputError, match='more than one image'):
        notes(truth, results)


def test_category_ids_by_name_or_quotes():
    expected = by_pycocotools(TRUTH, RESULTS)[0]
    names = {c['id']: c['name'] for c in TRUTH['categories']}
    for truth_id, result_id in ((int, str), (str, int), (int, names.get), (str, names.get)):
        truth = json.loads(json.dumps(TRUTH))
        for record in truth['categories']:
            record['id'] = truth_id(record['id'])
        for record in truth['annotations']:
            record['category_id'] = truth_id(record['category_id'])
        results = [dict(r, category_id=result_id(r['category_id'])) for r in RESULTS]
        checked = evaluation.ground_truth_from(truth, 'truth')
        found = evaluation.detections_from(results, checked, 'results')
        assert evaluation.figures(evaluation.evaluate(checked, found))['AP'] == expected
        assert 'mapped' in found.notes[0]
    # No option helps where the ids of the annotations are words.
    for record in truth['categories']:
        record['id'] = f'c{record["id"]}'
    for record in truth['annotations']:
        record['category_id'] = f'c{record["category_id"]}'
    with pytest.raises(InputError, match='another dataset') as error:
        notes(truth, RESULTS)
    assert '--category' not in str(error.value)
    truth['categories'][0]['name'] = truth['categories'][1]['name']
    with pytest.raises(InputError, match='the first is "'):  # two categories have that name
        notes(truth, [dict(r, category_id=names[r['category_id']]) for r in RESULTS])


def test_a_part_of_the_images_is_told_from_chance():
    truth, results = detector(3, noise=0.05)
    images = [i['id'] for i in truth['images']]
    half = [r for r in results if r['image_id'] in images[: len(images) * 2 // 3]]
    assert any('one after the other' in note for note in notes(truth, half))
    scattered = [r for r in results if r['image_id'] not in images[::9]]
    assert not any('warning' in note for note in notes(truth, scattered))


def test_max_dets_equals_pycocotools(tmp_path):
    truth, results = random_dataset(5, images=2, categories=1, objects=40, detections=500)
    status, err, found = by_the_tool(tmp_path, truth, results, '--max-dets', 200)
    assert status == 0 and 'do not count' in err
    checked = evaluation.ground_truth_from(truth, 'truth')
    dets = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, dets, 'pycocotools', max_detections=(1, 10, 200))
    assert found['AP'] == result.precision[..., 0, -1][result.precision[..., 0, -1] > -1].mean()
    assert found['AR200'] == result.recall[:, :, 0, -1].mean()
    assert '200 detections' not in by_the_tool(tmp_path, truth, results, '--max-dets', 500)[1]


def test_classes_are_scored_alone(tmp_path):
    status, _, found = by_the_tool(tmp_path, TRUTH, RESULTS, '--classes', 'nut')
    assert status == 0 and [row['name'] for row in found['per_class']] == ['nut']
    alone = dict(TRUTH, categories=TRUTH['categories'][1:])
    assert found['AP'] == by_pycocotools(alone, RESULTS)[0]
    status, err, _ = by_the_tool(tmp_path, TRUTH, RESULTS, '--classes', 'screw')
    assert status == 2 and 'no category "screw"; it has "bolt", "nut"' in err


def test_lvis_is_refused_unless_asked_for(tmp_path):
    truth = json.loads(json.dumps(TRUTH))
    truth['images'][0]['neg_category_ids'] = [3]
    assert 'LVIS' in by_the_tool(tmp_path, truth, RESULTS)[1]
    status, _, found = by_the_tool(tmp_path, truth, RESULTS, '--as-coco')
    assert status == 0 and found['AP'] == by_pycocotools(truth, RESULTS)[0]


def test_links_stay_links_and_streams_are_written(tmp_path):
    (tmp_path / 'real').mkdir()
    target, link = tmp_path / 'real' / 'out.md', tmp_path / 'link.md'
    target.write_text('old')
    link.symlink_to(target)
    os.mkfifo(tmp_path / 'fifo')
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / 'fifo').read_text()))
    reader.start()
    options = ('--out-md', link, '--out-csv', tmp_path / 'fifo')
    assert by_the_tool(tmp_path, TRUTH, RESULTS, *options)[0] == 0
    reader.join(30)
    assert link.is_symlink() and target.read_text().startswith('| | AP')
    assert read[0].startswith('class,id,AP')


def test_a_second_report_keeps_no_picture_of_the_first(tmp_path):
    (tmp_path / 'report').mkdir()
    (tmp_path / 'report' / 'worst_3.png').touch()
    (tmp_path / 'report' / 'mine.png').touch()
    truth = json.loads(json.dumps(TRUTH))
    truth['categories'][0]['name'] = '$x^$ \ud800 [/x]'
    options = ('--report', tmp_path / 'report', '--label', '$x^$')
    assert by_the_tool(tmp_path, truth, RESULTS, *options)[0] == 0
    pictures = {path.name for path in (tmp_path / 'report').glob('*.png')}
    assert 'worst_3.png' not in pictures and {'mine.png', 'ap_per_class.png'} <= pictures
    page = (tmp_path / 'report' / 'index.html').read_text(encoding='utf-8')
    assert '$x^$ \ufffd [/x]' in page
