"""Random COCO datasets and results with everything that makes matching hard."""

import numpy as np


def random_dataset(
    seed, images=12, categories=4, objects=40, detections=120, crowd=0.1, ties=0.3, grid=False
):
    """Return a COCO dataset and results as parsed JSON.

    Args:
        seed: everything follows from it.
        images, categories, objects, detections: how many.
        crowd: share of crowd annotations.
        ties: share of scores that are rounded to one decimal, so that many are equal.
        grid: put all boxes on a coarse grid, so that many IoUs are equal and at a threshold.
    """
    random = np.random.default_rng(seed)
    image_ids = np.sort(random.choice(10**6, images, replace=False)).tolist()
    category_ids = np.sort(random.choice(np.arange(1, 200), categories, replace=False)).tolist()

    def boxes(count):
        if grid:
            sizes = random.choice([10, 20, 30, 40, 100], (count, 2))
            return np.concatenate([random.choice([0, 10, 20, 50], (count, 2)), sizes], axis=1)
        sizes = np.exp(random.uniform(np.log(4), np.log(250), (count, 2)))
        return np.concatenate([random.uniform(0, 300, (count, 2)), sizes], axis=1)

    truth_boxes = boxes(objects)
    truth_images = random.integers(0, images, objects)
    truth_categories = random.integers(0, categories, objects)
    annotations = [
        dict(
            id=number + 1,
            image_id=image_ids[truth_images[number]],
            category_id=category_ids[truth_categories[number]],
            bbox=truth_boxes[number].tolist(),
            area=float(truth_boxes[number, 2] * truth_boxes[number, 3] * random.uniform(0.5, 1)),
            iscrowd=int(random.random() < crowd),
        )
        for number in range(objects)
    ]
    # Half of the detections are near an object, the others anywhere.
    results = []
    for box in boxes(detections):
        image, category = random.integers(0, images), random.integers(0, categories)
        if objects and random.random() < 0.7:
            number = random.integers(0, objects)
            image, category = truth_images[number], truth_categories[number]
            jitter = 0 if grid and random.random() < 0.5 else random.normal(0, 0.1, 4)
            box = truth_boxes[number] + jitter * truth_boxes[number, [2, 3, 2, 3]]
            box[2:] = np.maximum(box[2:], 0)
        score = random.random()
        results.append(
            dict(
                image_id=image_ids[image],
                category_id=category_ids[category],
                bbox=np.asarray(box, dtype=float).tolist(),
                score=round(score, 1) if random.random() < ties else score,
            )
        )
    dataset = dict(
        images=[dict(id=i, width=640, height=640, file_name=f'{i}.jpg') for i in image_ids],
        annotations=annotations,
        categories=[dict(id=c, name=f'class {c}') for c in category_ids],
    )
    return dataset, results
