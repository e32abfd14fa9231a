"""The paired bootstrap: exact on each resample, and its intervals cover."""

import copy

import numpy as np
import pytest
from bootstrap_coverage import compare_two, coverage
from random_coco import random_dataset
from test_backends import box, dataset, evaluate, pycocotools

from lip_mmdet import evaluation
from lip_mmdet.evaluation.comparison import _of_trainings
from lip_mmdet.evaluation.resampling import resampled_figures, weighted_figures


def values(figures):
    return [np.nan if figures[n] is None else figures[n] for n in evaluation.AP_FIGURES]


@pytest.mark.parametrize('seed', range(3))
def test_weights_1_give_the_figures(seed):
    truth, results = random_dataset(seed, images=20, objects=150, detections=500, grid=seed == 2)
    result = evaluate(truth, results)
    ours, by_class = np.split(weighted_figures(result, np.ones((20, 1), dtype=int)), [6])
    np.testing.assert_allclose(ours[:, 0], values(evaluation.figures(result)), atol=1e-12)
    per_class = [evaluation.figures(result, k)['AP'] for k in range(4)]
    np.testing.assert_allclose(by_class[:, 0], per_class, atol=1e-12)


def resampled(truth, results, weights):
    """Return the dataset in which each image occurs as often as its weight says."""
    dataset = dict(images=[], annotations=[], categories=truth['categories'])
    found = []
    for image, weight in zip(truth['images'], weights):
        for _ in range(weight):
            new_id = len(dataset['images']) + 1
            dataset['images'].append(dict(image, id=new_id))
            for annotation in truth['annotations']:
                if annotation['image_id'] == image['id']:
                    number = len(dataset['annotations']) + 1
                    dataset['annotations'].append(dict(annotation, id=number, image_id=new_id))
            found += [dict(r, image_id=new_id) for r in results if r['image_id'] == image['id']]
    return dataset, found


@pytest.mark.parametrize('seed', range(4))
def test_weights_give_what_pycocotools_gives_for_the_resampled_dataset(seed):
    # Distinct scores: between equal ones the order of repeated images would decide.
    truth, results = random_dataset(
        seed, images=8, categories=2, objects=70, detections=200, ties=0
    )
    result = evaluate(truth, results)
    weights = np.random.default_rng(seed).multinomial(8, [1 / 8] * 8, size=6).T
    ours = weighted_figures(result, weights)[:6]
    for column in range(6):
        expected = pycocotools(*resampled(truth, results, weights[:, column]))[0]
        np.testing.assert_allclose(ours[:, column], values(expected), atol=1e-12)


def test_a_detector_does_not_differ_from_itself():
    truth, results = random_dataset(3)
    checked = evaluation.ground_truth_from(truth, 'truth')
    result = evaluate(truth, results)
    comparison = compare_two(result, result, checked, resamples=50)
    for row in comparison.figures.values():
        assert row['difference'] in (0, None) and row['low'] in (0, None)


def test_the_seed_decides_the_interval():
    truth, results = random_dataset(4)
    checked = evaluation.ground_truth_from(truth, 'truth')
    one = evaluate(truth, results)
    other = evaluate(truth, results[::2])
    first, again, third = (
        compare_two(one, other, checked, resamples=60, seed=seed).figures['AP']
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first['low'] != third['low'] and first['difference'] == third['difference']


def test_the_images_and_classes_that_differ_most_come_first():
    square, elsewhere = [10, 10, 40, 40], [300, 300, 40, 40]
    truth = dataset([(i, 1 + i % 2, square, 0) for i in range(1, 7)], images=6, categories=(1, 2))
    good = [box(i, 1 + i % 2, square, 0.9) for i in range(1, 7)]
    # Worse in image 4 alone, which shows class 1.
    bad = [dict(r, bbox=elsewhere) if r['image_id'] == 4 else r for r in copy.deepcopy(good)]
    checked = evaluation.ground_truth_from(truth, 'truth')
    comparison = compare_two(
        evaluate(truth, bad),
        evaluate(truth, good),
        checked,
        resamples=40,
    )
    assert comparison.per_image[0]['id'] == 4
    assert comparison.per_image[0]['difference'] == pytest.approx(-1)
    assert comparison.per_image[1]['difference'] == 0
    assert comparison.per_class[0]['id'] == 1 and comparison.per_class[0]['difference'] < 0


def test_ap_of_an_image_is_pycocotools_on_that_image_alone():
    truth, results = random_dataset(5, images=6, objects=50, detections=150)
    ours = evaluation.image_ap(evaluate(truth, results))
    for position, image in enumerate(truth['images']):
        weights = [int(other is image) for other in truth['images']]
        expected = pycocotools(*resampled(truth, results, weights))[0]['AP']
        np.testing.assert_allclose(ours[position], expected, atol=1e-12)


def test_the_interval_covers_the_true_difference():
    covered, excludes_zero = coverage(studies=120, images=60, resamples=200)
    for name in ('AP', 'AP50', 'AP75'):
        # 95 % nominal; with 120 studies the standard error is 2 %.
        assert 0.88 <= covered[name] <= 1.0, name
    # And the interval is narrow enough to be of use.
    assert excludes_zero['AP'] > 0.5


def test_few_trainings_vary_as_much_as_as_many_new_ones_would():
    # The same on all images, so that nothing but the trainings varies.
    values = np.repeat([[[0.40]], [[0.43]], [[0.41]]], 40_000, axis=2)
    share = np.random.default_rng(0).multinomial(3, [1 / 3] * 3, 40_000).T / 3
    drawn = _of_trainings(values, share)[0]
    assert drawn.mean() == pytest.approx(np.mean([0.40, 0.43, 0.41]), abs=1e-4)
    expected = np.std([0.40, 0.43, 0.41], ddof=1) / np.sqrt(3)
    assert drawn.std() == pytest.approx(expected, rel=0.02)


def test_an_arm_of_trainings_has_their_mean_and_wider_intervals():
    truth, results = random_dataset(6, images=12, objects=80, detections=250)
    checked = evaluation.ground_truth_from(truth, 'truth')
    runs = [evaluate(truth, results[start:]) for start in (0, 60, 120)]
    one = evaluation.Arm('one', ['a'], runs[:1])
    many, same = (evaluation.Arm(n, list('abc'), r) for n, r in (('m', runs), ('s', runs[:1] * 3)))
    ap = [evaluation.figures(run)['AP'] for run in runs]
    row = many.figures()['AP']
    assert row['values'] == ap and row['mean'] == pytest.approx(np.mean(ap))
    assert row['std'] == pytest.approx(np.std(ap, ddof=1)) and one.figures()['AP']['std'] is None

    base = evaluation.Arm('base', ['d'], [evaluate(truth, results[::2])])
    alone, repeated, spread = (
        evaluation.compare(arm, [base], checked, resamples=300)[0] for arm in (one, same, many)
    )
    for name in ('difference', 'low', 'high'):
        assert repeated.figures['AP'][name] == pytest.approx(alone.figures['AP'][name])
    assert spread.figures['AP']['difference'] == pytest.approx(np.mean(ap) - row_of(base))
    width = [c.figures['AP']['high'] - c.figures['AP']['low'] for c in (alone, spread)]
    assert width[1] > width[0]
    assert 'too narrow' in spread.remark and 'training again' in alone.remark


def row_of(arm):
    return arm.figures()['AP']['mean']


def test_the_sign_turns_in_as_many_resamples_as_it_does():
    truth, results = random_dataset(4)
    one, other = evaluate(truth, results), evaluate(truth, results[: len(results) // 2])
    drawn = resampled_figures([one, other], 80, seed=3)
    checked = evaluation.ground_truth_from(truth, 'truth')
    compared = compare_two(one, other, checked, resamples=80, seed=3)
    for number, row in enumerate(compared.figures.values()):
        differences = drawn[0][number] - drawn[1][number]
        differences = differences[~np.isnan(differences)]  # no such object on the images drawn
        turned = np.mean(differences <= 0 if row['difference'] > 0 else differences >= 0)
        assert row['sign_turns'] == pytest.approx(turned)
        assert row['low'] <= row['difference'] <= row['high']


def test_a_comparison_counts_by_the_limit_of_the_evaluations():
    truth, results = random_dataset(7, images=6, detections=600)
    limits = (1, 2, 3)
    checked = evaluation.ground_truth_from(truth, 'truth')
    found = evaluation.detections_from(results, checked, 'results')
    result = evaluation.evaluate(checked, found, max_detections=limits)
    ours = weighted_figures(result, np.ones((6, 1), dtype=int))[:6]
    np.testing.assert_allclose(ours[:, 0], values(evaluation.figures(result)), atol=1e-12)
    assert evaluation.figures(evaluate(truth, results))['AP'] != evaluation.figures(result)['AP']
