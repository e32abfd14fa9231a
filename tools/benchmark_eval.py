"""Time and memory of COCO evaluation at the size of COCO minival, from start-up to the table.

Makes annotations and results of that size (seeded, not real), evaluates them in a process each with
pycocotools as its documentation says and with tools/eval_coco.py, and checks that both find the
same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--boxes', type=int, default=36_000)
    parser.add_argument('--detections', type=int, default=100, help='per image')
    parser.add_argument('--repeat', type=int, default=1, help='runs of each; the fastest counts')
    parser.add_argument('--baseline', action='store_true', help='time the paired bootstrap too')
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), args)
        files = ['--ann', 'ann.json', '--results', 'a.json']
        tool = [sys.executable, str(TOOL), *files, '--out-json', 'out.json']
        plain = [sys.executable, '-c', PYCOCOTOOLS, 'ann.json', 'a.json', 'out.json']
        commands = {
            'pycocotools itself': plain,
            'eval_coco': tool,
        }
        if args.baseline:
            commands['the same with --baseline'] = [*tool, '--baseline', 'b.json']
        rows = {name: measure(command, folder, args.repeat) for name, command in commands.items()}
    print_rows(rows, args)


def measure(command: list[str], folder: str, repeat: int) -> dict:
    """Run a command; return seconds, CPU seconds, peak memory and figures of the fastest run."""
    best = None
    for _ in range(repeat):
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise InputError(f'{command[1]} failed; see above')
        if best is None or seconds < best['seconds']:
            best = {
                'seconds': seconds,
                'cpu': usage.ru_utime + usage.ru_stime,
                'memory': usage.ru_maxrss / 1024,
            }
    content = json.loads((Path(folder) / 'out.json').read_text())
    if isinstance(content, dict):
        content = [content[name] for name in (*AP_FIGURES, *AR_FIGURES)]
    best['figures'] = content
    return best


def print_rows(rows: dict[str, dict], args: argparse.Namespace) -> None:
    reference = rows['pycocotools itself']
    title = f'{args.images} images, {args.classes} classes, {args.boxes} boxes'
    table = Table(title=f'{title}, {args.detections} detections an image')
    for column in ('', 'seconds', 'CPU seconds', 'peak MiB', 'faster by', 'CPU less by'):
        table.add_column(column, justify='right' if column else 'left')
    for name, row in rows.items():
        table.add_row(
            name,
            f'{row["seconds"]:.1f}',
            f'{row["cpu"]:.1f}',
            f'{row["memory"]:.0f}',
            f'{reference["seconds"] / row["seconds"]:.1f}x',
            f'{reference["cpu"] / row["cpu"]:.1f}x',
        )
    Console(width=110).print(table)
    same = all(row['figures'] == reference['figures'] for row in rows.values())
    print('figures: ' + ('the same to the last bit' if same else 'DIFFERENT'))
    if not same:
        sys.exit(1)


def make_data(folder: Path, args: argparse.Namespace) -> None:
    """Write ann.json, and a.json and b.json of a better and a worse detector."""
    random = np.random.default_rng(0)
    # Some classes are common and most are rare, as in COCO; an image shows a few of them. What a
    # detector adds with low scores is of those and a few similar ones, and a third of it of any
    # class, which makes some 25 classes an image.
    frequency = 1 / np.arange(1, args.classes + 1)
    frequency /= frequency.sum()
    image_ids = np.sort(random.choice(600_000, args.images, replace=False))
    themes = [random.choice(args.classes, 8, p=frequency) for _ in range(args.images)]

    image = np.sort(random.integers(0, args.images, args.boxes))
    category = np.array([themes[i][random.integers(0, 3)] for i in image])
    truth = random_boxes(random, args.boxes)
    annotations = [
        dict(
            id=number + 1,
            image_id=int(image_ids[image[number]]),
            category_id=int(category[number]) + 1,
            bbox=truth[number].tolist(),
            area=round(float(truth[number, 2] * truth[number, 3] * 0.7), 2),
            iscrowd=int(random.random() < 0.01),
        )
        for number in range(args.boxes)
    ]
    images = [
        dict(id=i, width=WIDTH, height=HEIGHT, file_name=f'{i:012}.jpg') for i in image_ids.tolist()
    ]
    classes = [dict(id=c + 1, name=f'class {c + 1}') for c in range(args.classes)]
    dataset = dict(images=images, annotations=annotations, categories=classes)
    (folder / 'ann.json').write_text(json.dumps(dataset))

    starts = np.searchsorted(image, np.arange(args.images + 1))
    for name, noise in (('a', 0.08), ('b', 0.1)):
        results = []
        for number in range(args.images):
            rows = np.repeat(np.arange(starts[number], starts[number + 1]), 3)[: args.detections]
            boxes = random_boxes(random, args.detections)
            labels = random.choice(themes[number], args.detections)
            stray = random.random(args.detections) < 1 / 3
            labels[stray] = random.choice(args.classes, stray.sum())
            scores = random.beta(1, 6, args.detections)
            if rows.size:
                shift = random.normal(0, noise, (len(rows), 4)) * truth[rows][:, [2, 3, 2, 3]]
                boxes[: len(rows)] = truth[rows] + shift
                right = random.random(len(rows)) < 0.9
                labels[: len(rows)] = np.where(right, category[rows], labels[: len(rows)])
                scores[: len(rows)] = random.beta(4, 3, len(rows))
            boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
            boxes = np.round(boxes, 2)
            results += [
                dict(
                    image_id=int(image_ids[number]),
                    category_id=int(labels[k]) + 1,
                    bbox=boxes[k].tolist(),
                    score=float(np.float32(scores[k])),
                )
                for k in np.argsort(-scores).tolist()
            ]
        (folder / f'{name}.json').write_text(json.dumps(results))


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    sizes = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    corners = random.random((count, 2)) * ([WIDTH, HEIGHT] - sizes)
    return np.round(np.concatenate([corners, sizes], axis=1), 2)


if __name__ == '__main__':
    run_tool(main)
