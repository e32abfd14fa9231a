"""Each type of error in a scene made for it, and what correcting it gains."""

import numpy as np
import pytest
from random_coco import random_dataset
from test_backends import box, dataset, evaluate

from lip_mmdet import evaluation
from lip_mmdet.evaluation import accumulation
from lip_mmdet.evaluation.error_types import ERROR_TYPES, break_down_errors

OBJECT = [100, 100, 100, 100]
OTHER = [300, 300, 100, 100]


def errors(truth, results):
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, found)
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
    assert [result.kind(row) for row in range(2)] == ['hit', kind]


def test_ap50_is_the_evaluations_and_corrections_gain():
    for seed in range(5):
        truth, results = random_dataset(seed, images=15, objects=100, detections=400)
        result, figures = errors(truth, results)
        assert result.ap50 == pytest.approx(figures['AP50'], abs=1e-12)
        assert all(gain >= -1e-12 for gain in result.gains.values())
        counted = sum(count for kind, count in result.counts.items() if kind != 'missed')
        kinds = [result.kind(row) for row in range(len(results))]
        assert counted + kinds.count('hit') + kinds.count('ignored') == len(kinds)


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
    kept = [r for row, r in enumerate(results) if result.kind(row) != 'background']
    without = evaluation.figures(evaluate(truth, kept, 'pycocotools'))['AP50']
    assert result.gains['background'] == pytest.approx(without - figures['AP50'], abs=1e-12)


def test_missed_objects_gain_what_evaluating_without_them_does():
    truth, results = random_dataset(4, images=15, objects=100, detections=300, crowd=0)
    result, figures = errors(truth, results)
    kept = [a for a, missed in zip(truth['annotations'], result.missed) if not missed]
    assert 0 < len(kept) < len(truth['annotations'])
    without = evaluation.figures(evaluate(dict(truth, annotations=kept), results, 'pycocotools'))
    assert result.gains['missed'] == pytest.approx(without['AP50'] - figures['AP50'], abs=1e-12)


# Made with tidecv 1.0.1: AP50, then number and gain of each type in the order of ERROR_TYPES.
TIDE = {
    0: (
        51.25092876910227,
        [0, 14, 17, 170, 110, 10],
        [0, 3.1006805390399137, 2.041760050601482, 11.560719502538518, 9.2497207264473,
         6.057338490763392],
    ),
    3: (
        54.338991328061496,
        [1, 20, 5, 179, 105, 7],
        [0.287227150572825, 3.4503169094140205, 0.71470963340753, 10.006030636058426,
         10.73763211540124, 4.213747571052636],
    ),
    19: (
        51.50331161683903,
        [3, 12, 9, 181, 101, 6],
        [0.1131067254344984, 0.9418595137465857, 2.113673291541602, 9.240087394358042,
         15.528911238746602, 3.352916070113487],
    ),
}  # fmt: skip


@pytest.mark.parametrize('seed', TIDE)
def test_numbers_and_gains_are_tides(monkeypatch, seed):
    # TIDE divides recall levels where COCO multiplies, so a level may be reached in one only.
    monkeypatch.setattr(accumulation, 'RECALL_LEVELS', np.arange(101) / 100)
    options = dict(images=15, objects=100, detections=400, crowd=0, ties=0)
    result, _ = errors(*random_dataset(seed, **options))
    ap50, counts, gains = TIDE[seed]
    assert result.counts == dict(zip(ERROR_TYPES, counts))
    assert 100 * result.ap50 == pytest.approx(ap50, abs=1e-9)
    assert [100 * result.gains[name] for name in ERROR_TYPES] == pytest.approx(gains, abs=1e-9)


def test_a_wrong_class_comes_before_a_duplicate_as_in_tide():
    # The second detection lies on an object of each class.
    truth = dataset([(1, 1, OBJECT, 0), (1, 2, [110, 100, 100, 100], 0)], 1, (1, 2))
    result, _ = errors(truth, [HIT, box(1, 1, [108, 100, 100, 100], 0.8)])
    assert result.counts == {**dict.fromkeys(ERROR_TYPES, 0), 'classification': 1}
    assert result.gains['classification'] == pytest.approx(0.5)
    assert result.gains['missed'] == result.gains['duplicate'] == 0
