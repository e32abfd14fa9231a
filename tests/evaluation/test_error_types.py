"""Each type of error in a scene made for it, and what correcting it gains."""

import pytest
from random_coco import random_dataset
from test_backends import box, dataset, evaluate

from lip_mmdet import evaluation
from lip_mmdet.evaluation.error_types import ERROR_TYPES, box_iou, break_down_errors

OBJECT = [100, 100, 100, 100]
OTHER = [300, 300, 100, 100]


def errors(truth, results):
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, found, keep_matches=True)
    return break_down_errors(result, checked, found), evaluation.figures(result)


def scene(*results):
    """One object of class 1 and one of class 2, and what was detected."""
    truth = dataset([(1, 1, OBJECT, 0), (1, 2, OTHER, 0)], images=1, categories=(1, 2))
    return errors(truth, list(results))[0]


HIT = box(1, 1, OBJECT, 0.9)
SHIFTED = [160, 100, 100, 100]  # IoU 0.25 with the object


@pytest.mark.parametrize(
    'kind, wrong',
    [
        ('classification', box(1, 1, OTHER, 0.95)),
        ('localization', box(1, 2, [360, 300, 100, 100], 0.95)),
        ('both', box(1, 2, SHIFTED, 0.95)),
        ('duplicate', box(1, 1, [102, 100, 100, 100], 0.5)),
        ('background', box(1, 1, [500, 0, 50, 50], 0.95)),
    ],
)
def test_each_type_is_recognised(kind, wrong):
    result = scene(HIT, wrong)
    expected = dict.fromkeys(ERROR_TYPES, 0)
    expected[kind] = 1
    # The second object is missed unless a wrong class or box only hides that it was seen.
    expected['missed'] = int(kind not in ('classification', 'localization'))
    assert result.counts == expected
    assert result.kinds == {0: 'hit', 1: kind}


def test_ap50_is_the_evaluations_and_corrections_gain():
    for seed in range(5):
        truth, results = random_dataset(seed, images=15, objects=100, detections=400)
        result, figures = errors(truth, results)
        assert result.ap50 == pytest.approx(figures['AP50'], abs=1e-12)
        assert all(gain >= -1e-12 for gain in result.gains.values())
        counted = sum(count for kind, count in result.counts.items() if kind != 'missed')
        hits = sum(kind == 'hit' for kind in result.kinds.values())
        assert counted + hits == len(result.kinds)


def test_correcting_the_only_errors_makes_ap50_perfect():
    # One object found; the other found with the wrong class only.
    result = scene(HIT, box(1, 1, OTHER, 0.95))
    # Class 1: hit after a false alarm, 0.5; class 2: nothing.
    assert result.ap50 == pytest.approx(0.25)
    assert result.gains['classification'] == pytest.approx(0.75)
    assert result.gains['localization'] == result.gains['missed'] == 0


def test_removing_false_alarms_gains_what_evaluating_without_them_does():
    truth, results = random_dataset(3, images=15, objects=100, detections=400)
    result, figures = errors(truth, results)
    kept = [r for row, r in enumerate(results) if result.kinds.get(row) != 'background']
    without = evaluation.figures(evaluate(truth, kept, 'pycocotools'))['AP50']
    assert result.gains['background'] == pytest.approx(without - figures['AP50'], abs=1e-12)


def test_missed_objects_gain_what_evaluating_without_them_does():
    truth, results = random_dataset(4, images=15, objects=100, detections=300, crowd=0)
    result, figures = errors(truth, results)
    kept = [a for a in truth['annotations'] if a['id'] not in result.missed_ids]
    assert 0 < len(kept) < len(truth['annotations'])
    without = evaluation.figures(evaluate(dict(truth, annotations=kept), results, 'pycocotools'))
    assert result.gains['missed'] == pytest.approx(without['AP50'] - figures['AP50'], abs=1e-12)


def test_iou_is_pycocotools():
    import numpy as np
    from pycocotools import mask

    random = np.random.default_rng(0)
    boxes, others = (random.uniform(0, 100, (20, 4)) for _ in range(2))
    boxes[0, 2:] = others[0, 2:] = 0
    expected = mask.iou(boxes, others, [0] * 20)
    np.testing.assert_allclose(box_iou(boxes, others)[1:, 1:], expected[1:, 1:], atol=1e-12)
    assert box_iou(boxes[:1], others).max() == 0
