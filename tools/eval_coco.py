"""Score detections by COCO's definition.

From result files:      tools/eval_coco.py --ann annotations.json --results results.bbox.json
From a trained model:   tools/eval_coco.py CONFIG CHECKPOINT
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack

from lip_mmdet import evaluation
from lip_mmdet.errors import InputError, run_tool
from lip_mmdet.evaluation.tables import print_figures
from lip_mmdet.files import replace_on_success, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='MMDetection config, to run inference first')
    parser.add_argument('checkpoint', nargs='?', help='its weights')
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations')
    parser.add_argument('--results', metavar='FILE', help='COCO results (boxes) to score')
    parser.add_argument('--backend', choices=evaluation.BACKENDS, default='auto')
    parser.add_argument('--out-json', metavar='FILE', help='write the figures as fractions')
    model = parser.add_argument_group('inference')
    model.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    model.add_argument('--work-dir', metavar='DIR', help='where logs and results go')
    model.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun passes it to the processes it starts.
    model.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.config:
        files = run_inference(args)
        if files is None:
            return
        args.ann, args.results = map(str, files)
    elif not (args.ann and args.results):
        raise InputError('nothing to score: give --ann FILE --results FILE, or CONFIG CHECKPOINT')

    with ExitStack() as outputs:
        # Outputs are opened first, so that an unwritable one costs no evaluation.
        json_file = args.out_json and outputs.enter_context(replace_on_success(args.out_json))
        truth = evaluation.load_ground_truth(args.ann)
        detections = evaluation.load_detections(args.results, truth)
        for note in truth.notes + detections.notes:
            print(f'warning: {note}', file=sys.stderr)
        scores = evaluation.figures(evaluation.evaluate(truth, detections, args.backend))
        print_figures(scores)
        if json_file:
            write_json(json_file, scores)


def run_inference(args: argparse.Namespace):
    if not args.checkpoint:
        raise InputError('a config needs a checkpoint: tools/eval_coco.py CONFIG CHECKPOINT')
    if args.results:
        raise InputError('give either --results FILE or CONFIG CHECKPOINT, not both')
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    from mmengine.config import DictAction

    from lip_mmdet.evaluation.inference import detect

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction)
    options = parser.parse_args(['--cfg-options', *args.cfg_options]).cfg_options
    return detect(
        args.config,
        args.checkpoint,
        cfg_options=options,
        work_dir=args.work_dir,
        launcher=args.launcher,
        ann_file=args.ann,
    )


if __name__ == '__main__':
    run_tool(main)
