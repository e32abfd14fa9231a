"""Precision, recall, scores and matches equal pycocotools' to the last bit, on whatever data.

``LIP_MMDET_EXAMPLES=5000`` has the property test try so many random datasets.
"""

import contextlib
import copy
import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_coco import random_dataset

from lip_mmdet import evaluation
from lip_mmdet.errors import InputError

FIGURES = [*evaluation.AP_FIGURES, *evaluation.AR_FIGURES]


def box(image_id, category_id, bbox, score):
    return dict(image_id=image_id, category_id=category_id, bbox=bbox, score=score)


def dataset(annotations, images=2, categories=(1,)):
    """Return a COCO dataset of (image id, category id, bbox, crowd) tuples."""
    return dict(
        images=[dict(id=i + 1, width=640, height=640) for i in range(images)],
        categories=[dict(id=c, name=f'class {c}') for c in categories],
        annotations=[
            dict(
                id=number + 1,
                image_id=image,
                category_id=category,
                bbox=bbox,
                area=bbox[2] * bbox[3],
                iscrowd=crowd,
            )
            for number, (image, category, bbox, crowd) in enumerate(annotations)
        ],
    )


def pycocotools(truth, results, **parameters):
    """Return the twelve figures from pycocotools itself, and its arrays."""
    coco_eval = coco_evaluation(truth, results, **parameters)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval.summarize()
    figures = [None if value == -1 else value for value in coco_eval.stats.tolist()]
    return dict(zip(FIGURES, figures)), coco_eval.eval['precision'], coco_eval.eval['recall']


def coco_evaluation(truth, results, iou_type='bbox', **parameters):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results)) if results else COCO()
        coco_eval = COCOeval(coco, found, iou_type)
        for name, value in parameters.items():
            setattr(coco_eval.params, name, value)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def evaluate(truth, results, backend='auto', **options):
    checked = evaluation.ground_truth_from(copy.deepcopy(truth), 'truth')
    found = evaluation.detections_from(copy.deepcopy(results), checked, 'results')
    return evaluation.evaluate(checked, found, backend, **options)


def assert_all_agree(truth, results):
    expected = pycocotools(truth, results)[0]
    coco_eval = coco_evaluation(truth, results)
    for backend in evaluation.BACKENDS:
        ours = evaluate(truth, results, backend)
        assert_arrays_are_equal(ours, coco_eval)
        assert evaluation.figures(ours) == expected, backend
    assert_matches_are_equal(ours, coco_eval)
    return expected


def assert_arrays_are_equal(ours, coco_eval):
    # Not only to 1e-12: to the last bit.
    for name in ('precision', 'recall', 'scores'):
        assert np.array_equal(getattr(ours, name), coco_eval.eval[name]), name


def assert_matches_are_equal(ours, coco_eval):
    """Compare with ``evalImgs``, which is ordered by class, area range and image."""
    matches = ours.matches
    thresholds = len(ours.iou_thresholds)
    images, areas = len(ours.image_ids), len(matches.ignored)
    object_ids = np.array([a['id'] for a in coco_eval.cocoGt.dataset['annotations']], dtype=int)
    for area in range(areas):
        ids = np.zeros((thresholds, len(matches.rows)))
        ignored = np.repeat(~matches.inside[[area]], thresholds, axis=0)
        for threshold in range(thresholds):
            detections, objects, hits = matches.at(area, threshold)
            ids[threshold, detections] = object_ids[objects]
            ignored[threshold, detections] = ~hits
        for number in range(len(ours.category_ids)):
            start, end = matches.starts[number : number + 2]
            for image in range(images):
                theirs = coco_eval.evalImgs[(number * areas + area) * images + image]
                here = start + np.flatnonzero(matches.image[start:end] == image)
                if theirs is None:
                    assert not here.size
                    continue
                here = here[np.argsort(matches.rank[here])]
                assert (matches.rows[here] + 1).tolist() == theirs['dtIds']
                assert np.array_equal(ids[:, here], theirs['dtMatches'])
                assert np.array_equal(ignored[:, here], theirs['dtIgnore'])


# Crowds, ties in score, ties in IoU, more detections of a class in an image than the limit.
RANDOM = [
    dict(images=10, categories=4, objects=60, detections=200),
    dict(images=3, categories=1, objects=200, detections=600, crowd=0.4, ties=1.0),
    dict(images=6, categories=2, objects=120, detections=900, ties=0.5, grid=True),
    dict(images=25, categories=6, objects=12, detections=30),
    dict(images=2, categories=2, objects=30, detections=900, grid=True, crowd=0.3),
    dict(images=8, categories=3, objects=0, detections=50),
    dict(images=1, categories=1, objects=250, detections=250, crowd=0),
]


@pytest.mark.parametrize('options', RANDOM)
@pytest.mark.parametrize('seed', range(4))
def test_random_data(options, seed):
    assert_all_agree(*random_dataset(seed, **options))


SQUARE = [10, 10, 40, 40]
ADVERSARIAL = {
    'nothing found': (dataset([(1, 1, SQUARE, 0)]), []),
    'nothing there': (dataset([]), [box(1, 1, SQUARE, 0.5)]),
    'one perfect hit': (dataset([(1, 1, SQUARE, 0)]), [box(1, 1, SQUARE, 1.0)]),
    'crowd matched by many': (
        dataset([(1, 1, SQUARE, 0), (1, 1, [0, 0, 300, 300], 1)]),
        [box(1, 1, [5 * i, 60, 30, 30], 0.9 - i / 20) for i in range(12)]
        + [box(1, 1, SQUARE, 0.1)],
    ),
    'only crowds': (dataset([(1, 1, SQUARE, 1)]), [box(1, 1, SQUARE, 0.5)]),
    'equal scores in one image': (
        dataset([(1, 1, SQUARE, 0), (1, 1, [100, 10, 40, 40], 0)]),
        [box(1, 1, [12, 10, 40, 40], 0.5), box(1, 1, SQUARE, 0.5), box(1, 1, [300, 0, 9, 9], 0.5)],
    ),
    'equal scores in two images': (
        dataset([(1, 1, SQUARE, 0), (2, 1, SQUARE, 0)]),
        [box(2, 1, SQUARE, 0.5), box(1, 1, [200, 200, 40, 40], 0.5), box(1, 1, SQUARE, 0.5)],
    ),
    'equal overlap with two objects': (
        dataset([(1, 1, [0, 0, 40, 40], 0), (1, 1, [20, 0, 40, 40], 0)]),
        [box(1, 1, [10, 0, 40, 40], 0.9), box(1, 1, [10, 0, 40, 40], 0.8)],
    ),
    'overlap exactly at a threshold': (
        dataset([(1, 1, [0, 0, 100, 100], 0)]),
        [box(1, 1, [0, 0, 100, 50], 0.9), box(1, 1, [0, 0, 100, 75], 0.8)],
    ),
    'area exactly at a limit': (
        dataset([(1, 1, [0, 0, 32, 32], 0), (2, 1, [0, 0, 96, 96], 0)]),
        [box(1, 1, [0, 0, 32, 32], 0.9), box(2, 1, [0, 0, 96, 96], 0.8)],
    ),
    'boxes without area': (
        dataset([(1, 1, [10, 10, 0, 20], 0), (1, 1, SQUARE, 0)]),
        [box(1, 1, [10, 10, 0, 20], 0.9), box(1, 1, [10, 10, 0, 0], 0.8), box(1, 1, SQUARE, 0.7)],
    ),
    'more than 100 detections': (
        dataset([(1, 1, [20 * i, 0, 18, 18], 0) for i in range(30)]),
        [box(1, 1, [20 * (i % 30), i // 30, 18, 18], 1 - i / 500) for i in range(250)],
    ),
    'a class without objects': (
        dataset([(1, 1, SQUARE, 0)], categories=(1, 5)),
        [box(1, 1, SQUARE, 0.5), box(2, 5, SQUARE, 0.9)],
    ),
    'a class without detections': (
        dataset([(1, 1, SQUARE, 0), (2, 5, SQUARE, 0)], categories=(1, 5, 9)),
        [box(1, 1, SQUARE, 0.5)],
    ),
    'scores that are not probabilities': (
        dataset([(1, 1, SQUARE, 0)]),
        [box(1, 1, SQUARE, -3.5), box(1, 1, [200, 200, 9, 9], 1e9)],
    ),
}


@pytest.mark.parametrize('case', ADVERSARIAL)
def test_adversarial_data(case):
    assert_all_agree(*ADVERSARIAL[case])


def test_figures_of_a_case_computed_by_hand():
    # Two objects; the first detection is wrong, the second right, the other object is not found:
    # precision 1/2 up to recall 1/2, which 51 of 101 recall levels do not exceed.
    truth = dataset([(1, 1, SQUARE, 0), (2, 1, SQUARE, 0)])
    results = [box(1, 1, [300, 300, 40, 40], 0.9), box(1, 1, SQUARE, 0.8)]
    figures = evaluation.figures(evaluate(truth, results, 'pycocotools'))
    assert figures['AP50'] == pytest.approx(0.5 * 51 / 101)
    assert figures['AR100'] == pytest.approx(0.5) and figures['AR1'] == pytest.approx(0)
    assert figures['APS'] is None and figures['APM'] == figures['AP']


def test_an_annotation_numbered_0_counts_as_in_pycocotools_and_is_noted():
    truth = dataset([(1, 1, SQUARE, 0), (2, 1, SQUARE, 0)])
    for number, annotation in enumerate(truth['annotations']):
        annotation['id'] = number
    assert_all_agree(truth, [box(1, 1, SQUARE, 0.9), box(2, 1, SQUARE, 0.8)])
    notes = evaluation.ground_truth_from(truth, 'truth').notes
    assert any('numbers an annotation 0' in note for note in notes)


def test_missing_areas_and_crowd_flags_are_filled_in():
    truth, results = random_dataset(1, crowd=0)
    for annotation in truth['annotations']:
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    expected = pycocotools(truth, results)[0]
    for annotation in truth['annotations']:
        del annotation['area'], annotation['iscrowd']
    assert evaluation.figures(evaluate(truth, results, 'pycocotools')) == expected


def test_some_categories_alone():
    truth, results = random_dataset(2)
    chosen = [category['id'] for category in truth['categories'][1:3]]
    parts = [evaluate(truth, results, b, category_ids=chosen) for b in ('pycocotools', 'auto')]
    whole = evaluate(truth, results, 'pycocotools')
    for part in parts:
        assert np.array_equal(part.precision, whole.precision[:, :, 1:3])


def test_an_unknown_backend_is_refused_and_faster_coco_eval_with_what_to_use():
    assert evaluation.choose_backend('auto') == 'numpy'
    with pytest.raises(InputError, match=r'no backend any more.*pycocotools'):
        evaluation.choose_backend('faster-coco-eval')
    with pytest.raises(InputError, match='unknown backend'):
        evaluation.choose_backend('matlab')


# Sides at which boxes touch, areas are 32 x 32, 96 x 96 or 0, and IoUs are equal or at a threshold.
SIDES = st.sampled_from([0, 8, 16, 32, 48, 64, 96, 128])
CORNERS = st.sampled_from([0, 8, 16, 32, 40.5])
BOXES = st.tuples(CORNERS, CORNERS, SIDES, SIDES) | st.tuples(*[st.floats(0, 200)] * 4)
IDS = st.integers(-50, 50)


@st.composite
def datasets(draw):
    """Draw images and classes with unsorted ids, crowds, ties, empty images and empty classes."""
    images = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
    place = st.tuples(st.sampled_from(images), st.sampled_from(classes), BOXES)
    objects = draw(st.lists(place, max_size=14))
    ids = draw(st.lists(IDS, min_size=len(objects), max_size=len(objects), unique=True))
    areas = st.none() | st.sampled_from([0, 1023.5, 1024, 9216, 1e10, 2e10])
    annotations = []
    for number, (image, category, bbox) in zip(ids, objects):
        area = draw(areas)
        annotations.append(
            dict(
                id=number,
                image_id=image,
                category_id=category,
                bbox=list(bbox),
                area=bbox[2] * bbox[3] if area is None else area,
                iscrowd=int(draw(st.integers(0, 4)) == 0),
            )
        )
    found = st.tuples(place, st.sampled_from([-1.5, 0, 0.3, 0.5, 0.5, 0.9]) | st.floats(0, 1))
    results = [
        box(image, category, list(bbox), score)
        for (image, category, bbox), score in draw(st.lists(found, max_size=40))
    ]
    truth = dict(
        images=[dict(id=i) for i in images],
        categories=[dict(id=c) for c in classes],
        annotations=annotations,
    )
    return truth, results


def columns_of(truth, results):
    """Return the columns of datasets whose ids no file would be allowed to have."""

    def column(records, key, dtype=np.int64, shape=-1):
        return np.array([r[key] for r in records], dtype=dtype).reshape(shape)

    annotations = truth['annotations']
    return (
        evaluation.GroundTruth(
            source='truth',
            image_ids=np.sort(column(truth['images'], 'id')),
            image_sizes=np.full((len(truth['images']), 2), np.nan),
            file_names={},
            category_ids=np.sort(column(truth['categories'], 'id')),
            category_names={},
            ids=column(annotations, 'id'),
            image=column(annotations, 'image_id'),
            category=column(annotations, 'category_id'),
            boxes=column(annotations, 'bbox', float, (-1, 4)),
            areas=column(annotations, 'area', float),
            crowd=column(annotations, 'iscrowd', bool),
            image_numbers=None,
            category_numbers=None,
        ),
        evaluation.Detections(
            source='results',
            image=column(results, 'image_id'),
            category=column(results, 'category_id'),
            boxes=column(results, 'bbox', float, (-1, 4)),
            scores=column(results, 'score', float),
        ),
    )


@settings(max_examples=int(os.environ.get('LIP_MMDET_EXAMPLES', 120)), deadline=None)
@given(
    datasets(),
    st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
    st.just(np.linspace(0.5, 0.95, 10))
    | st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]), min_size=1, max_size=4),
)
def test_any_data_any_limits_any_thresholds(data, limits, thresholds):
    truth, results = data
    thresholds = np.array(thresholds)
    coco_eval = coco_evaluation(truth, results, maxDets=list(limits), iouThrs=thresholds)
    ours = evaluation.evaluate(
        *columns_of(truth, results), iou_thresholds=thresholds, max_detections=limits
    )
    assert_arrays_are_equal(ours, coco_eval)
    assert_matches_are_equal(ours, coco_eval)


def test_boxes_that_are_no_numbers_match_nothing():
    truth = dataset([(1, 1, SQUARE, 0)])
    nan, infinity = float('nan'), float('inf')
    broken = [[nan] * 4, [nan, 10, 40, 40], [10, 10, infinity, 40], [-infinity, 0, infinity, 9]]
    results = [box(1, 1, bbox, 0.9) for bbox in broken] + [box(1, 1, SQUARE, 0.5)]
    ours = evaluation.evaluate(*columns_of(truth, results))
    assert ours.matches.pair_detection.tolist() == [4]
    # False alarms before the hit.
    assert evaluation.figures(ours)['AP50'] == pytest.approx(1 / 5)
