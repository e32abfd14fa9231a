"""A small COCO-format dataset of shapes on clutter, drawn from a seed.

Every image holds small, medium and large objects in COCO's sense (area below 32x32, up to 96x96,
above), so that all six AP figures mean something after minutes of training.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from lip_mmdet.files import replace_on_success, write_json

CLASSES = ('square', 'circle', 'triangle')
IMAGE_SIZE = 128  # pixels, both sides
# Side lengths in pixels, such that the area of the box falls in the range of that name, and how
# many of them an image gets at most.
SIZES = {'large': (98, 112, 1), 'medium': (34, 56, 2), 'small': (12, 24, 4)}
_LARGEST_OVERLAP = 0.05  # of the smaller box


def make_shapes_dataset(folder: str | Path, num_train: int, num_val: int, seed: int = 0) -> None:
    """Write ``train.json``, ``val.json`` and ``images/`` below ``folder``.

    The same arguments give the same images and boxes. A dataset that is complete is left alone.

    Args:
        folder: made if missing.
        num_train: images to train on.
        num_val: images to score on.
        seed: of everything random.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(folder)
    recipe = dict(num_train=num_train, num_val=num_val, seed=seed)
    done = folder / 'recipe.json'
    if done.is_file() and json.loads(done.read_text()) == recipe:
        return
    rng = np.random.default_rng(seed)
    for split, count in (('train', num_train), ('val', num_val)):
        images, annotations = [], []
        for index in range(count):
            name = f'{split}_{index:04d}.png'
            picture, objects = _draw_image(rng)
            with replace_on_success(folder / 'images' / name) as temporary:
                cv2.imwrite(str(temporary), picture)
            image = dict(id=index + 1, file_name=name, width=IMAGE_SIZE, height=IMAGE_SIZE)
            images.append(image)
            for label, (x, y, w, h) in objects:
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image['id'],
                        category_id=label + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                    )
                )
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        write_json(
            folder / f'{split}.json',
            dict(images=images, annotations=annotations, categories=categories),
        )
    write_json(done, recipe)


def _draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list]:
    picture = _draw_background(rng)
    objects: list[tuple[int, tuple[int, int, int, int]]] = []
    for low, high, most in SIZES.values():
        for _ in range(rng.integers(0 if low > 90 else 1, most + 1)):
            box = _place(rng, low, high, [box for _, box in objects])
            if box is not None:
                label = int(rng.integers(len(CLASSES)))
                _draw_object(rng, picture, label, box)
                objects.append((label, box))
    noise = rng.normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), objects


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """Soft grey blotches with thin lines across, neither of which is an object."""
    coarse = rng.integers(70, 150, (5, 5, 3)).astype(np.float32)
    coarse = coarse.mean(-1, keepdims=True) * 0.8 + coarse * 0.2
    picture = cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
    picture = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
    for _ in range(rng.integers(4, 9)):
        ends = rng.integers(0, IMAGE_SIZE, 4).tolist()
        shade = rng.integers(60, 170, 3).tolist()
        cv2.line(picture, tuple(ends[:2]), tuple(ends[2:]), shade, int(rng.integers(1, 3)))
    return picture


def _place(
    rng: np.random.Generator, low: int, high: int, taken: list
) -> tuple[int, int, int, int] | None:
    """Find a square box of a side in ``low..high`` that hardly touches those ``taken``."""
    for _ in range(30):
        side = int(rng.integers(low, high + 1))
        x, y = rng.integers(0, IMAGE_SIZE - side, 2).tolist()
        box = (x, y, side, side)
        if all(_overlap(box, other) <= _LARGEST_OVERLAP for other in taken):
            return box
    return None


def _overlap(a: tuple, b: tuple) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def _draw_object(rng: np.random.Generator, picture: np.ndarray, label: int, box: tuple) -> None:
    x, y, side, _ = box
    # One strong and one weak channel: a saturated colour, unlike the background's greys.
    colour = rng.permutation([rng.integers(200, 256), rng.integers(0, 256), rng.integers(0, 50)])
    colour = colour.tolist()
    right, bottom = x + side - 1, y + side - 1
    if CLASSES[label] == 'square':
        cv2.rectangle(picture, (x, y), (right, bottom), colour, -1)
    elif CLASSES[label] == 'circle':
        centre = (x + side // 2, y + side // 2)
        cv2.circle(picture, centre, (side - 1) // 2, colour, -1, cv2.LINE_AA)
    else:
        corners = np.array([[x, bottom], [right, bottom], [x + side // 2, y]], np.int32)
        cv2.fillPoly(picture, [corners], colour, cv2.LINE_AA)
