"""Train and score a LIP detector on generated images, with the commands that a user would type."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/demo/faster-rcnn_lip-r50_fpn_demo.py'
OUT = Path('work_dirs/demo')
NEXT = f"""
What there is now, in {OUT}:
  predictions.png   detections beside ground truth
  loss.png          the training loss
  report/           index.html: curves, kinds of errors, the worst images
  scores.txt        the table above; scores.json has the figures at full precision
  epoch_2.pth       the detector; train.log and eval.log tell how it came about

What to do next:
  your own data     README.md, "Your own data": a config that needs paths and class names
  COCO              README.md, "COCO"
  your project      README.md, "In an existing MMDetection project": two lines in a config
"""


def main() -> None:
    os.chdir(ROOT)
    from shapes import make_shapes_dataset

    from lip_mmdet.evaluation import load_detections, load_ground_truth
    from lip_mmdet.visualization import plot_detections_beside_truth, plot_training

    started = time.monotonic()
    say(f'drawing 400 images to train on and 80 to score on, in {OUT}/data')
    make_shapes_dataset(OUT / 'data', num_train=400, num_val=80)

    say('training a LIP-ResNet-50 Faster R-CNN with FPN from scratch: 3 to 5 minutes on 2 cores')
    train = ['tools/train.py', CONFIG, '--work-dir', str(OUT)]
    run(train, OUT / 'train.log', show='Epoch(train)')

    say('scoring it on images that it has not seen')
    score = ['tools/eval_coco.py', CONFIG, str(OUT / 'epoch_2.pth'), '--work-dir', str(OUT)]
    run([*score, '--out-json', str(OUT / 'scores.json')], OUT / 'eval.log')
    results = OUT / 'epoch_2_val.bbox.json'
    annotations = OUT / 'data' / 'val.json'
    # Scored again from the files alone, as one does with the results of any detector.
    files = ['--ann', str(annotations), '--results', str(results)]
    report = ['--report', str(OUT / 'report'), '--images', str(OUT / 'data' / 'images')]
    run(['tools/eval_coco.py', *files, *report], OUT / 'scores.txt', show='')

    truth = load_ground_truth(annotations)
    detections = load_detections(results, truth)
    images = OUT / 'data' / 'images'
    plot_detections_beside_truth(truth, detections, images, OUT / 'predictions.png')
    plot_training({'LIP-ResNet-50 Faster R-CNN': OUT}, OUT / 'loss.png')
    say(f'done in {(time.monotonic() - started) / 60:.1f} minutes')
    print(NEXT)


def run(command: list, log: Path, show: str | None = None) -> None:
    """Run a tool, keep what it prints in ``log`` and show the lines that hold ``show``."""
    say('$ python ' + ' '.join(command))
    environment = dict(os.environ, PYTHONWARNINGS='ignore', COLUMNS='100')
    with log.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout:
            file.write(line)
            if show is not None and show in line:
                print('  ' + line[:110].rstrip(), flush=True)
        process.wait()
    if process.returncode:
        print(''.join(log.read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
        print(f'error: {command[0]} failed; its whole log is {log}', file=sys.stderr)
        sys.exit(1)


def say(line: str) -> None:
    print(f'[demo] {line}', flush=True)


if __name__ == '__main__':
    from lip_mmdet.command_line import run_tool

    run_tool(main)
