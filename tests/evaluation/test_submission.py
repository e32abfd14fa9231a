"""What the test-dev server takes is written; what it would refuse is counted and refused."""

import copy
import json
import zipfile

import pytest

from lip_mmdet import evaluation
from lip_mmdet.errors import InputError

INFO = dict(
    images=[dict(id=i, width=100, height=100) for i in (5, 6, 7)],
    categories=[dict(id=c, name=f'class {c}') for c in (1, 2)],
)
RESULTS = [
    dict(image_id=i, category_id=1, bbox=[1.5, 2.0, 30.0, 40.0], score=0.5, id=9, area=1200.0)
    for i in (5, 6, 7)
]
NAME = 'detections_test-dev2017_lip-r101_results'


@pytest.fixture
def truth():
    return evaluation.ground_truth_from(INFO, 'image info', labels=False)


def broken(*changes):
    """Return good results with (row, key, value) replaced."""
    results = copy.deepcopy(RESULTS)
    for row, key, value in changes:
        results[row][key] = value
    return results


NAN = float('nan')
REFUSED = {
    'detections in unknown images': (broken((0, 'image_id', 99)), 1),
    'detections of unknown categories': (broken((0, 'category_id', 3), (1, 'category_id', 0)), 2),
    'images with more than 100 detections': (RESULTS + RESULTS[:1] * 100, 1),
    'boxes that are not finite': (
        broken((0, 'bbox', [0, NAN, 1, 1]), (1, 'bbox', [0, 0, float('inf'), 1])),
        2,
    ),
    'boxes with a negative number': (broken((2, 'bbox', [0, 0, -1, 5])), 1),
    'scores outside [0, 1]': (
        broken((0, 'score', 1.01), (1, 'score', -0.1), (2, 'score', NAN)),
        3,
    ),
    'images without detections': (RESULTS[:1], 2),
    'detections without numeric image_id, category_id, score and four bbox': (
        broken((0, 'score', '0.5'), (1, 'bbox', [1, 2, 3])) + RESULTS,
        2,
    ),
}


@pytest.mark.parametrize('problem', REFUSED)
def test_each_problem_is_counted_and_nothing_is_written(truth, tmp_path, problem):
    results, count = REFUSED[problem]
    assert evaluation.submission_problems(results, truth)[problem] == count
    with pytest.raises(InputError) as refusal:
        evaluation.write_submission(tmp_path, 'lip-r101', results, truth, 'results')
    assert f'{count} {problem}' in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_named_at_once(truth):
    results = broken((0, 'image_id', 99), (1, 'score', 2.0))
    assert set(evaluation.submission_problems(results, truth)) == {
        'detections in unknown images',
        'scores outside [0, 1]',
        'images without detections',
    }


def test_a_submission_holds_the_servers_four_fields_under_its_name(truth, tmp_path):
    json_path, zip_path = evaluation.write_submission(
        tmp_path, 'lip-r101', RESULTS, truth, 'results'
    )
    assert json_path.name == f'{NAME}.json' and zip_path.name == f'{NAME}.zip'
    written = json.loads(json_path.read_text())
    assert [set(record) for record in written] == [{'image_id', 'category_id', 'bbox', 'score'}] * 3
    assert written[0]['bbox'] == RESULTS[0]['bbox']
    with zipfile.ZipFile(zip_path) as archive:
        assert archive.namelist() == [f'{NAME}.json']
        assert json.loads(archive.read(f'{NAME}.json')) == written
    for path in (json_path, zip_path):
        assert evaluation.check_submission(path, truth) == 3


def test_images_without_detections_can_be_meant(truth, tmp_path):
    evaluation.write_submission(tmp_path, 'a', RESULTS[:1], truth, 'results', allow_missing=True)
    path = tmp_path / 'detections_test-dev2017_a_results.zip'
    assert evaluation.check_submission(path, truth, allow_missing=True) == 1
    with pytest.raises(InputError, match='2 images without detections'):
        evaluation.check_submission(path, truth)


def test_names_and_archives_that_the_server_would_not_recognise_are_refused(truth, tmp_path):
    with pytest.raises(InputError, match='algorithm name'):
        evaluation.write_submission(tmp_path, 'my net/2', RESULTS, truth, 'results')
    with pytest.raises(InputError, match='the server wants a file named'):
        evaluation.check_submission(tmp_path / 'results.json', truth)
    with pytest.raises(InputError, match='does not exist'):
        evaluation.check_submission(tmp_path / f'{NAME}.zip', truth)

    path = tmp_path / f'{NAME}.zip'
    path.write_bytes(b'PK\x03\x04 broken')
    with pytest.raises(InputError, match='not a whole zip'):
        evaluation.check_submission(path, truth)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'folder/{NAME}.json', json.dumps(RESULTS))
    with pytest.raises(InputError, match='has to hold'):
        evaluation.check_submission(path, truth)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'{NAME}.json', json.dumps(RESULTS)[:-9])
    with pytest.raises(InputError, match='truncated'):
        evaluation.check_submission(path, truth)
