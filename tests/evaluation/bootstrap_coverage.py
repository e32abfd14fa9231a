"""How often the bootstrap's interval holds the true difference of two simulated detectors.

Prints the share of studies for AP, AP50 and AP75; the tests run a smaller one.
"""

import argparse

import numpy as np

from lip_mmdet import evaluation

FIGURES = ('AP', 'AP50', 'AP75')


def simulate(random, images):
    """Return annotations of random images and what two detectors find in them.

    Each image has 3 objects. One detector finds an object with probability 0.7, the other with
    0.55; on hard images, half of them, both do worse. Both have false alarms, and boxes off by up
    to some pixels.
    """
    truth = dict(
        images=[dict(id=i + 1, width=640, height=640) for i in range(images)],
        categories=[dict(id=1, name='object')],
        annotations=[
            dict(
                id=3 * i + k + 1,
                image_id=i + 1,
                category_id=1,
                bbox=[10 + 60 * k, 10, 40, 40],
                area=1600,
                iscrowd=0,
            )
            for i in range(images)
            for k in range(3)
        ],
    )
    hard = random.random(images) < 0.5
    detectors = []
    for chance in (0.7, 0.55):
        found = []
        for annotation in truth['annotations']:
            image = annotation['image_id']
            if random.random() < chance - 0.25 * hard[image - 1]:
                x, y, width, height = annotation['bbox']
                bbox = [x + random.exponential(3.0), y, width, height]
                found.append(_detection(image, bbox, random.beta(4, 2)))
        for image in range(1, images + 1):
            for _ in range(random.poisson(1.0)):
                found.append(_detection(image, [400, 400, 30, 30], random.beta(2, 3)))
        detectors.append(found)
    return truth, detectors


def compare_two(one, other, truth, **options):
    """Compare two evaluations, of one training each."""
    arms = [evaluation.Arm(name, [name], [run]) for name, run in (('a', one), ('b', other))]
    return evaluation.compare(arms[0], arms[1:], truth, **options)[0]


def _detection(image, bbox, score):
    return dict(image_id=image, category_id=1, bbox=bbox, score=score)


def coverage(studies, images, resamples, seed=0):
    """Return the share of studies whose interval holds the true difference, and excludes 0.

    The true difference is the one on a hundred times as many images.
    """
    random = np.random.default_rng(seed)
    true = [evaluation.figures(result) for _, result in _evaluate(*simulate(random, 100 * images))]
    covered, excludes_zero = dict.fromkeys(FIGURES, 0), dict.fromkeys(FIGURES, 0)
    for _ in range(studies):
        (truth, one), (_, other) = _evaluate(*simulate(random, images))
        comparison = compare_two(one, other, truth, resamples=resamples)
        for name in FIGURES:
            row = comparison.figures[name]
            covered[name] += row['low'] <= true[0][name] - true[1][name] <= row['high']
            excludes_zero[name] += row['low'] > 0
    return tuple(
        {name: count / studies for name, count in counts.items()}
        for counts in (covered, excludes_zero)
    )


def _evaluate(truth, detectors):
    checked = evaluation.ground_truth_from(truth, 'truth')
    for results in detectors:
        found = evaluation.detections_from(results, checked, 'results')
        yield checked, evaluation.evaluate(checked, found)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--studies', type=int, default=500)
    parser.add_argument('--images', type=int, default=100)
    parser.add_argument('--resamples', type=int, default=1000)
    args = parser.parse_args()
    covered, excludes_zero = coverage(args.studies, args.images, args.resamples)
    for name in FIGURES:
        print(f'{name}: holds the truth {covered[name]:.3f}, excludes 0 {excludes_zero[name]:.3f}')
