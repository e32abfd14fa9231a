"""Time and memory of COCO evaluation as whole processes, from start-up to the table.

Makes annotations and results (seeded, not real) of the size of COCO minival, of LVIS and of 80,000
images, and scores them in a process each. At minival's size pycocotools takes turns with
tools/eval_coco.py, and both have to find the same figures. CPU seconds are what to compare on a
machine that others use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lip_mmdet.command_line import run_tool
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import AP_FIGURES, AR_FIGURES

TOOL = Path(__file__).resolve().parent / 'eval_coco.py'
WIDTH, HEIGHT = 640, 480
PYCOCOTOOLS = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
coco_eval = COCOeval(truth, truth.loadRes(sys.argv[2]), 'bbox')
coco_eval.evaluate()
coco_eval.accumulate()
coco_eval.summarize()
json.dump(coco_eval.stats.tolist(), open(sys.argv[3], 'w'))
"""


@dataclass(frozen=True)
class Shape:
    """How much there is: images, classes and objects in all, detections in an image."""

    images: int
    classes: int
    objects: int
    detections: int = 100


SHAPES = {
    'minival': Shape(5000, 80, 36_000),
    'lvis': Shape(20_000, 1203, 250_000),
    'large': Shape(80_000, 80, 580_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=['minival'])
    parser.add_argument('--repeat', type=int, default=3, help='turns; the least of each counts')
    parser.add_argument(
        '--judge', nargs='*', choices=SHAPES, default=['minival'], help='with pycocotools, too'
    )
    args = parser.parse_args()
    for name in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            make_data(Path(folder), SHAPES[name])
            tool = [sys.executable, str(TOOL), '--ann', 'ann.json', '--results', 'a.json']
            tool += ['--out-json', 'out.json']
            commands = {
                'eval_coco.py': tool,
                'the same with --baseline': [*tool, '--baseline', 'b.json'],
            }
            if name in args.judge:
                judge = [sys.executable, '-W', 'ignore', '-c', PYCOCOTOOLS]
                commands = {'pycocotools': [*judge, 'ann.json', 'a.json', 'out.json'], **commands}
            turns = [
                {row: measure(command, folder) for row, command in commands.items()}
                for _ in range(max(1, args.repeat))
            ]
        print_rows(name, {row: least([turn[row] for turn in turns]) for row in commands})


def measure(command: list[str], folder: str) -> dict:
    """Run a command; return its seconds, CPU seconds, peak memory in MiB, and the figures."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise InputError(f'{command[1]} failed; see above')
    content = json.loads((Path(folder) / 'out.json').read_text())
    if isinstance(content, dict):
        content = [content[name] for name in (*AP_FIGURES, *AR_FIGURES)]
    return {
        'seconds': seconds,
        'cpu': usage.ru_utime + usage.ru_stime,
        'memory': usage.ru_maxrss / 1024,
        'figures': content,
    }


def least(turns: list[dict]) -> dict:
    numbers = {key: min(turn[key] for turn in turns) for key in ('seconds', 'cpu', 'memory')}
    return {**numbers, 'figures': turns[0]['figures']}


def print_rows(name: str, rows: dict[str, dict]) -> None:
    shape, first = SHAPES[name], next(iter(rows.values()))
    detections = shape.images * shape.detections
    table = Table(
        title=f'{name}: {shape.images:,} images, {shape.classes:,} classes, {shape.objects:,} '
        f'objects, {detections:,} detections'
    )
    heads = ['', 'seconds', 'CPU seconds', 'CPU us a detection', 'peak MiB']
    judged = 'pycocotools' in rows
    for column in [*heads, *(['faster by', 'CPU less by'] if judged else [])]:
        table.add_column(column, justify='right' if column else 'left')
    for label, row in rows.items():
        ratios = [f'{first[key] / row[key]:.1f}x' for key in ('seconds', 'cpu') if judged]
        table.add_row(
            label,
            f'{row["seconds"]:.1f}',
            f'{row["cpu"]:.1f}',
            f'{1e6 * row["cpu"] / detections:.1f}',
            f'{row["memory"]:.0f}',
            *ratios,
        )
    Console(width=110).print(table)
    if judged:
        same = all(row['figures'] == first['figures'] for row in rows.values())
        print('figures: ' + ('the same to the last bit' if same else 'DIFFERENT'))
        if not same:
            sys.exit(1)


def make_data(folder: Path, shape: Shape) -> None:
    """Write ann.json, and a.json and b.json of a better and a worse detector."""
    random = np.random.default_rng(0)
    # Some classes are common and most are rare, as in COCO; an image shows a few of them. What a
    # detector adds with low scores is of those and a few similar ones, and a third of it of any
    # class, which makes some 25 classes an image.
    frequency = 1 / np.arange(1, shape.classes + 1)
    frequency /= frequency.sum()
    image_ids = np.sort(random.choice(600_000, shape.images, replace=False))
    themes = random.choice(shape.classes, (shape.images, 8), p=frequency)

    image = np.sort(random.integers(0, shape.images, shape.objects))
    category = themes[image, random.integers(0, 3, shape.objects)]
    truth = random_boxes(random, shape.objects)
    crowd = random.random(shape.objects) < 0.01
    annotations = [
        dict(
            id=number + 1,
            image_id=int(image_ids[image[number]]),
            category_id=int(category[number]) + 1,
            bbox=truth[number].tolist(),
            area=round(float(truth[number, 2] * truth[number, 3] * 0.7), 2),
            iscrowd=int(crowd[number]),
        )
        for number in range(shape.objects)
    ]
    images = [
        dict(id=i, width=WIDTH, height=HEIGHT, file_name=f'{i:012}.jpg') for i in image_ids.tolist()
    ]
    classes = [dict(id=c + 1, name=f'class {c + 1}') for c in range(shape.classes)]
    dataset = dict(images=images, annotations=annotations, categories=classes)
    (folder / 'ann.json').write_text(json.dumps(dataset))

    starts = np.searchsorted(image, np.arange(shape.images + 1))
    for name, noise in (('a', 0.08), ('b', 0.1)):
        with open(folder / f'{name}.json', 'w') as results:
            for number in range(shape.images):
                rows = slice(starts[number], starts[number + 1])
                found = detections_of(
                    random, shape, noise, themes[number], truth[rows], category[rows]
                )
                records = [
                    dict(image_id=int(image_ids[number]), category_id=c, bbox=b, score=s)
                    for c, b, s in found
                ]
                text = json.dumps(records)[1:-1]
                results.write(('[' if number == 0 else ', ') + text)
            results.write(']')


def detections_of(
    random: np.random.Generator,
    shape: Shape,
    noise: float,
    themes: np.ndarray,
    truth: np.ndarray,
    category: np.ndarray,
) -> list[tuple[int, list[float], float]]:
    """Return class, box and score of an image's detections, three near each object, best first."""
    count = shape.detections
    rows = np.repeat(np.arange(len(truth)), 3)[:count]
    boxes = random_boxes(random, count)
    labels = random.choice(themes, count)
    stray = random.random(count) < 1 / 3
    labels[stray] = random.integers(0, shape.classes, stray.sum())
    scores = random.beta(1, 6, count)
    shift = random.normal(0, noise, (len(rows), 4)) * truth[rows][:, [2, 3, 2, 3]]
    boxes[: len(rows)] = truth[rows] + shift
    right = random.random(len(rows)) < 0.9
    labels[: len(rows)] = np.where(right, category[rows], labels[: len(rows)])
    scores[: len(rows)] = random.beta(4, 3, len(rows))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    order = np.argsort(-scores)
    return list(
        zip(
            (labels[order] + 1).tolist(),
            np.round(boxes[order], 2).tolist(),
            scores[order].astype(np.float32).tolist(),
        )
    )


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    sizes = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    corners = random.random((count, 2)) * ([WIDTH, HEIGHT] - sizes)
    return np.round(np.concatenate([corners, sizes], axis=1), 2)


if __name__ == '__main__':
    run_tool(main)
