"""Both backends, and pycocotools called directly, give the same numbers."""

import contextlib
import copy
import io
import sys

import numpy as np
import pytest
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


def pycocotools(truth, results):
    """Return the twelve figures and the arrays behind them from pycocotools itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results)) if results else COCO()
        coco_eval = COCOeval(coco, found, 'bbox')
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    figures = [None if value == -1 else value for value in coco_eval.stats.tolist()]
    return dict(zip(FIGURES, figures)), coco_eval.eval['precision'], coco_eval.eval['recall']


def evaluate(truth, results, backend, **options):
    checked = evaluation.ground_truth_from(copy.deepcopy(truth), 'truth')
    found = evaluation.detections_from(copy.deepcopy(results), checked, 'results')
    return evaluation.evaluate(checked, found, backend, **options)


def assert_all_agree(truth, results):
    expected, precision, recall = pycocotools(truth, results)
    for backend in ('pycocotools', 'faster-coco-eval'):
        ours = evaluate(truth, results, backend)
        # Not only to 1e-12: to the last bit.
        assert np.array_equal(ours.precision, precision), backend
        assert np.array_equal(ours.recall, recall), backend
        assert evaluation.figures(ours) == expected, backend
    return expected


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
def test_backends_agree_on_random_data(options, seed):
    pytest.importorskip('faster_coco_eval')
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
def test_backends_agree_on_adversarial_data(case):
    pytest.importorskip('faster_coco_eval')
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
    pytest.importorskip('faster_coco_eval')
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


@pytest.mark.parametrize('options', RANDOM)
def test_both_backends_make_the_same_matches(options):
    pytest.importorskip('faster_coco_eval')
    truth, results = random_dataset(11, **options)
    one, other = (
        evaluate(truth, results, backend, keep_matches=True).matches
        for backend in ('pycocotools', 'faster-coco-eval')
    )
    assert len(one) == len(other) == len(truth['categories'])
    for ours, theirs in zip(one, other):
        for name in ('rows', 'image', 'scores', 'truth_ids', 'ignored', 'truth_counts'):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_without_faster_coco_eval_auto_is_pycocotools(monkeypatch):
    # As a library that is there and broken; None stands for one that is not there.
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    assert evaluation.choose_backend('auto') == 'pycocotools'
    with pytest.raises(InputError, match='pip install faster-coco-eval'):
        evaluation.choose_backend('faster-coco-eval')
    with pytest.raises(InputError, match='unknown backend'):
        evaluation.choose_backend('matlab')
