"""Train and score a LIP detector on generated images, with the commands that a user would type."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/demo/faster-rcnn_lip-r18_fpn_demo.py'
OUT = Path('work_dirs/demo')
DETECTOR = 'LIP-ResNet-18 Faster R-CNN'
SHOWN_SCORE = 0.7  # detections below it are left out of pictures
QUICK_EPOCHS = 4
QUICK_FLOOR = 0.6
# Where a line of a log says how far a command is: [epoch][step/steps], or [step/steps].
_POSITION = re.compile(r'(?:\[(\d+)\])?\[ *(\d+)/(\d+)\]')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'{QUICK_EPOCHS} epochs; fails where AP50 is below {100 * QUICK_FLOOR:.0f} percent',
    )
    quick = parser.parse_args().quick
    os.chdir(ROOT)
    from mmengine.config import Config
    from shapes import make_shapes_dataset

    from lip_mmdet.evaluation import load_detections, load_ground_truth
    from lip_mmdet.visualization import plot_detections_beside_truth, plot_training

    started = time.monotonic()
    epochs = QUICK_EPOCHS if quick else Config.fromfile(CONFIG).train_cfg.max_epochs
    data, images = OUT / 'data', OUT / 'data' / 'images'
    say(f'drawing 400 images to train on and 80 to score on, in {data}')
    make_shapes_dataset(data, num_train=400, num_val=80)

    minutes = 4 * epochs // 5
    say(f'training a {DETECTOR} with FPN from scratch: {minutes} minutes or so on 2 quiet cores')
    train = ['tools/train.py', CONFIG, '--work-dir', str(OUT)]
    if quick:
        keys = ('train_cfg.max_epochs', 'train_cfg.val_interval')
        keys += ('param_scheduler.1.T_max', 'param_scheduler.1.end')
        train += ['--cfg-options', *(f'{key}={epochs}' for key in keys)]
    run(train, OUT / 'train.log', show='Epoch(train)', epochs=epochs)

    say('scoring it on images that it has not seen')
    checkpoint = OUT / f'epoch_{epochs}.pth'
    score = ['tools/eval_coco.py', CONFIG, str(checkpoint), '--work-dir', str(OUT)]
    run([*score, '--out-json', str(OUT / 'scores.json')], OUT / 'eval.log')
    results = OUT / f'{checkpoint.stem}_val.bbox.json'
    # Scored again from the files alone, as one does with the results of any detector.
    files = ['--ann', str(data / 'val.json'), '--results', str(results), '--label', DETECTOR]
    report = ['--report', str(OUT / 'report'), '--images', str(images)]
    run(['tools/eval_coco.py', *files, *report], OUT / 'scores.txt', show='')

    say('drawing what LIP looks at')
    shown = [str(images / f'val_{number:04d}.png') for number in range(8)]
    look = ['tools/show_importance.py', CONFIG, str(checkpoint), *shown]
    look += ['--min-score', str(SHOWN_SCORE), '--out', str(OUT / 'importance')]
    run(look, OUT / 'importance.log')

    truth = load_ground_truth(data / 'val.json')
    detections = load_detections(results, truth)
    picture = OUT / 'predictions.png'
    plot_detections_beside_truth(truth, detections, images, picture, min_score=SHOWN_SCORE)
    plot_training({DETECTOR: OUT}, OUT / 'loss.png')
    figures = json.loads((OUT / 'scores.json').read_text())
    minutes = (time.monotonic() - started) / 60
    page = write_page(figures, checkpoint)
    say(f'done in {minutes:.1f} minutes: AP50 {figures["AP50"]:.1%}')
    if quick and figures['AP50'] < QUICK_FLOOR:
        print(f'error: AP50 is below the floor of {QUICK_FLOOR:.0%}', file=sys.stderr)
        sys.exit(1)
    print(f'open {page}')


def run(command: list, log: Path, show: str | None = None, epochs: int = 1) -> None:
    """Run a tool under a bar with the time left; keep what it prints in ``log``.

    Args:
        command: the tool and its arguments.
        log: file to write.
        show: the lines that hold it are shown; None for no line.
        epochs: how often the tool counts to its number of steps.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    say('$ python ' + shlex.join(command))
    environment = dict(os.environ, PYTHONWARNINGS='ignore', COLUMNS='100')
    columns = (TextColumn('  {task.percentage:3.0f} %'), BarColumn(), TimeRemainingColumn())
    # The bar is a terminal's alone, and leaves nothing behind.
    bar = Progress(*columns, TextColumn('left'), transient=True, disable=not sys.stdout.isatty())
    with log.open('w') as file, bar:
        task = bar.add_task('', total=None)
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
            position = _POSITION.search(line)
            if position:
                epoch, step, steps = (int(number or 1) for number in position.groups())
                done = (epoch - 1) * steps + step
                bar.update(task, total=epochs * steps, completed=done)
        process.wait()
    if process.returncode:
        print(''.join(log.read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
        print(f'error: {command[0]} failed; its whole log is {log}', file=sys.stderr)
        sys.exit(1)


def write_page(figures: dict, checkpoint: Path) -> Path:
    """Write the page that leads to everything, and return its path.

    Args:
        figures: AP and others as fractions.
        checkpoint: the detector.
    """
    from lip_mmdet.evaluation import AP_FIGURES
    from lip_mmdet.files import replace_on_success, write_text
    from lip_mmdet.visualization.report_style import STYLE

    cards = ''.join(
        f'<div class="card"><span class="name">{name}</span>'
        f'<span class="value">{100 * figures[name]:.1f}</span></div>'
        for name in AP_FIGURES
    )
    picture = sorted((OUT / 'importance').glob('*.png'))[0].relative_to(OUT)
    links = ''.join(
        f'<tr><th><a href="{name}">{name}</a></th><td class="text">{escape(text)}</td></tr>'
        for name, text in (
            ('report/index.html', 'precision and recall, kinds of errors, the worst images'),
            ('importance/index.html', 'what LIP looks at, with a slider, in eight images'),
            (checkpoint.name, 'the detector'),
            ('scores.json', 'all figures at full precision; scores.txt has the table'),
            ('train.log', 'how it came about; eval.log and importance.log, what followed'),
        )
    )
    doors = ''.join(
        f'<tr><th>{name}</th><td class="text">{escape(text)}</td></tr>'
        for name, text in (
            ('A trained detector', 'README.md, "A trained detector of yours": LIP in two epochs'),
            ('Your own data', 'README.md, "Your own data": a config with paths and class names'),
            ('Your project', 'README.md, "Start": two lines in a config'),
            ('COCO', 'README.md, "COCO"'),
        )
    )
    page = OUT / 'index.html'
    with replace_on_success(page) as file:
        write_text(
            file,
            _PAGE.format(
                style=STYLE + _STYLE,
                detector=DETECTOR,
                config=CONFIG,
                cards=cards,
                picture=picture.as_posix(),
                links=links,
                doors=doors,
            ),
            page,
        )
    return page


def say(line: str) -> None:
    print(f'[demo] {line}', flush=True)


_STYLE = """
a { color: var(--blue); }
td.text { text-align: left; white-space: normal; }
.wide img { max-width: 1000px; margin: 0 auto; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LIP demo</title><style>{style}</style></head>
<body><header><p class="kicker">Local Importance-based Pooling</p><h1>{detector}</h1>
<p class="summary">Trained from scratch on 400 generated images, scored on 80 others.<br>
{config}</p></header><main>
<div class="cards">{cards}</div>
<p class="caption">Percent, COCO's definitions; APS, APM, APL: small, medium, large objects.</p>
<section><h2>What it finds</h2><figure class="wide"><a href="predictions.png">
<img src="predictions.png" alt="ground truth above, detections below"></a></figure></section>
<section><h2>What LIP looks at</h2><figure class="wide"><a href="importance/index.html">
<img src="{picture}" alt="selectivity of LIP at each level"></a>
<figcaption>Bright where LIP chooses among the positions of a window, dark where it averages them.
<a href="importance/index.html">More images, with a slider</a></figcaption></figure></section>
<div class="pair">
<section><h2>Everything</h2><div class="scroll"><table><tbody>{links}</tbody></table></div>
</section>
<section><h2>How it learned</h2><figure><img src="loss.png" alt="training loss"></figure></section>
</div>
<section><h2>What next</h2><div class="scroll"><table><tbody>{doors}</tbody></table></div></section>
</main><footer></footer></body></html>
"""


if __name__ == '__main__':
    from lip_mmdet.command_line import run_tool

    run_tool(main)
