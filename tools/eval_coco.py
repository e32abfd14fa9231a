"""Score, compare, submit and picture detections by COCO's definition.

Result files:     tools/eval_coco.py --ann annotations.json --results results.bbox.json
A trained model:  tools/eval_coco.py CONFIG CHECKPOINT
COCO minival:     tools/eval_coco.py --split minival --results results.bbox.json
test-dev:         tools/eval_coco.py CONFIG CHECKPOINT --split test-dev --submission DIR --alg NAME
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from lip_mmdet import evaluation
from lip_mmdet.command_line import run_tool
from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import tables
from lip_mmdet.evaluation.coco_file import collector_paused
from lip_mmdet.evaluation.json_file import clean
from lip_mmdet.files import json_text, replace_on_success, write_text

# What says how to score and what to write, which a submission does neither of.
_SCORING = (
    'iou_type', 'backend', 'classes', 'max_dets', 'category_shift', 'category_positions',
    'as_coco', 'reference', 'baseline', 'resamples', 'seed', 'per_class', 'per_size', 'label',
    'out_json', 'out_csv', 'out_md', 'report',
)  # fmt: skip

_MOST = 2**31  # of what is counted
_STDOUT = ('/dev/stdout', '/dev/fd/1', '/proc/self/fd/1')

if TYPE_CHECKING:
    import numpy as np

    from lip_mmdet.engine.inference import DetectionFiles


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='MMDetection config, to run inference first')
    parser.add_argument('checkpoint', nargs='?', help='its weights')
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations')
    parser.add_argument(
        '--results', nargs='+', metavar='FILE', help='COCO results, one file for each training'
    )
    parser.add_argument(
        '--iou-type', choices=['bbox', 'segm'], default='bbox', help='score boxes or masks'
    )
    parser.add_argument('--split', choices=evaluation.SPLITS, help='find the annotations of COCO')
    parser.add_argument('--data-root', metavar='DIR', default='data/coco', help='where COCO is')
    parser.add_argument('--backend', default='auto', help='pycocotools has it compute the figures')
    parser.add_argument('--classes', metavar='A,B', help='score these categories only, by name')
    parser.add_argument(
        '--max-dets', type=int, default=100, metavar='N', help='of a class in an image (COCO: 100)'
    )
    parser.add_argument(
        '--category-shift', type=int, default=0, metavar='N', help="add N to results' class ids"
    )
    parser.add_argument(
        '--category-positions', type=int, choices=(0, 1), help='class ids of results count classes'
    )
    parser.add_argument('--as-coco', action='store_true', help="score LVIS files by COCO's rules")

    against = parser.add_argument_group('comparison')
    against.add_argument('--reference', metavar='NAME', help='a published result to compare with')
    against.add_argument(
        '--baseline',
        nargs='+',
        action='append',
        default=[],
        metavar='FILE',
        help='results of another detector, a file for each training; repeat it for others',
    )
    against.add_argument('--resamples', type=int, default=1000, help='of the bootstrap')
    against.add_argument('--seed', type=int, default=0, help='of the bootstrap')

    output = parser.add_argument_group('output')
    output.add_argument('--per-class', action='store_true', help='print the classes too')
    output.add_argument('--per-size', action='store_true', help='print AP in finer sizes too')
    output.add_argument('--label', default='measured', help="the results' name in tables")
    output.add_argument('--out-json', metavar='FILE', help='everything, as fractions')
    output.add_argument('--out-csv', metavar='FILE', help='figures by class')
    output.add_argument('--out-md', metavar='FILE', help='a Markdown table')
    output.add_argument('--report', metavar='DIR', help='a page with plots, index.html')
    output.add_argument('--images', metavar='DIR', help="where the report's images are")

    submit = parser.add_argument_group('submission to the test-dev server')
    submit.add_argument('--submission', metavar='DIR', help='write the JSON and its zip')
    submit.add_argument('--alg', metavar='NAME', help="the algorithm's name in the file names")
    submit.add_argument('--check-submission', metavar='FILE', help='only check a JSON or zip')
    submit.add_argument(
        '--allow-missing', action='store_true', help='accept images without detections'
    )

    model = parser.add_argument_group('inference')
    model.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    model.add_argument('--work-dir', metavar='DIR', help='where logs and results go')
    model.add_argument(
        '--allow-partial',
        action='store_true',
        help='go on with a checkpoint of other classes, or that fits the model in part',
    )
    model.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # Older versions of torch's launcher pass it to the processes they start.
    model.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.label = clean(args.label)
    args.unused_by_submission = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest in _SCORING and getattr(args, action.dest) != action.default
    ]
    return args


def main() -> None:
    args = parse_args()
    check_combination(args)
    if args.split:
        ann_file, images = map(str, evaluation.find_split(args.split, args.data_root))
        args.ann, args.images = ann_file, args.images or images
    if args.check_submission:
        return check_submission(args)
    if args.config:
        files = run_inference(args)
        if files is None:
            return
        args.ann, args.results = str(files.ann_file), [str(files.results)]
        if args.classes is None and files.classes:
            args.classes = files.classes
        args.images = args.images or str(files.image_folder)
    if args.submission:
        write_submission(args)
    else:
        score(args)


def check_combination(args: argparse.Namespace) -> None:
    """Raise InputError where arguments are missing or exclude each other."""
    if args.ann and args.split:
        raise InputError('give either --ann FILE or --split NAME, not both')
    if (args.submission or args.check_submission) and args.unused_by_submission:
        which = 'submission' if args.submission else 'check-submission'
        raise InputError(
            f'--{which} does not use {", ".join(args.unused_by_submission)}; leave it out'
        )
    if args.check_submission:
        if not (args.ann or args.split):
            raise InputError('--check-submission needs --ann image_info_test-dev2017.json')
        return
    if args.config:
        if not args.checkpoint:
            raise InputError('a config needs a checkpoint: tools/eval_coco.py CONFIG CHECKPOINT')
        if args.results:
            raise InputError('give either --results FILE or CONFIG CHECKPOINT, not both')
    elif not (args.results and (args.ann or args.split)):
        raise InputError('nothing to score: give --ann FILE --results FILE, or CONFIG CHECKPOINT')
    if args.submission and args.results and len(args.results) > 1:
        raise InputError('--submission takes one file of --results')
    if args.submission and not args.alg:
        raise InputError('--submission needs --alg NAME: it is part of the file names')
    if args.split == 'test-dev' and not args.submission:
        raise InputError('test-dev is scored by its server: add --submission DIR --alg NAME')
    evaluation.choose_backend(args.backend)
    if args.images and not Path(args.images).is_dir():
        raise InputError(f'--images {args.images} is not a folder; name the one with the images')
    for name, least in (('resamples', 1), ('seed', 0), ('max_dets', 1), ('category_shift', -_MOST)):
        value = getattr(args, name)
        if not least <= value <= _MOST:
            option = name.replace('_', '-')
            limit = f'at least {least}' if value < least else f'at most {_MOST}'
            raise InputError(f'--{option} is {value}; it has to be {limit}')


def run_inference(args: argparse.Namespace) -> DetectionFiles | None:
    """Return the files that inference wrote and read, None in every process but the first."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    # Says first what is missing of MMDetection.
    from mmengine.config import DictAction

    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine.inference import detect
    from lip_mmdet.engine.memory import keep_freed_memory

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction)
    if not all('=' in option for option in args.cfg_options):
        raise InputError(f'--cfg-options takes KEY=VALUE, not {" ".join(args.cfg_options)}')
    keep_freed_memory()
    return detect(
        args.config,
        args.checkpoint,
        cfg_options=parser.parse_args(['--cfg-options', *args.cfg_options]).cfg_options,
        work_dir=args.work_dir,
        launcher=args.launcher,
        ann_file=args.ann,
        image_folder=args.images,
        allow_partial=args.allow_partial,
        iou_type=args.iou_type,
    )


def check_submission(args: argparse.Namespace) -> None:
    truth = evaluation.load_ground_truth(args.ann, labels=False)
    count = evaluation.check_submission(args.check_submission, truth, args.allow_missing)
    print(f'{args.check_submission}: {count:,} detections, nothing the server would refuse')


def write_submission(args: argparse.Namespace) -> None:
    truth = evaluation.load_ground_truth(args.ann, labels=False)
    files = evaluation.write_submission(
        args.submission,
        args.alg,
        evaluation.read_json(args.results[0], 'results file'),
        truth,
        f'results file {args.results[0]}',
        args.allow_missing,
    )
    print(f'wrote {files[0]}\nupload {files[1]}')


def score(args: argparse.Namespace) -> None:
    reference = args.reference and evaluation.find_reference(args.reference)
    with ExitStack() as outputs, collector_paused():
        # Outputs are opened first, so that an unwritable one costs no evaluation.
        paths = output_paths(args)
        targets = {
            name: outputs.enter_context(replace_on_success(path)) for name, path in paths.items()
        }
        truth = evaluation.load_ground_truth(
            args.ann, as_coco=args.as_coco, masks=args.iou_type == 'segm'
        )
        notes = [*truth.notes, *evaluation.split_notes(truth, args.split, reference)]
        arms, breakdowns, sizes, first = evaluate_arms(args, truth, notes)
        if len(args.results) > 1 and args.report:
            notes.append(f'note: curves, errors and images of the report are of {args.results[0]}')
        for note in notes:
            print(note, file=sys.stderr)
        summary = evaluation.Summary(
            breakdown=evaluation.mean_of(breakdowns),
            label=args.label,
            arms=arms,
            comparisons=evaluation.compare(
                arms[0], arms[1:], truth, resamples=args.resamples, seed=args.seed
            )
            if args.baseline
            else (),
            reference=reference,
            sizes=sizes,
            notes=notes,
        )
        if 'json' in targets:
            write_text(targets['json'], json_text(summary.as_json()), args.out_json)
        if 'csv' in targets:
            write_text(targets['csv'], tables.csv_text(summary.breakdown), args.out_csv)
        if 'md' in targets:
            write_text(targets['md'], tables.markdown(summary), args.out_md)
        if 'report' in targets:
            from lip_mmdet.visualization.report import ReportInput, write_report

            content = ReportInput(summary, truth, first, args.images)
            write_report(content, targets['report'], Path(args.report))
    # Last, for who reads them, such as `head`, may have enough and end the tool.
    to_stdout = any(str(path) in _STDOUT for path in paths.values())
    with redirect_stdout(sys.stderr if to_stdout else sys.stdout):
        tables.print_tables(tables.tables_of(summary, args.per_class))
        if args.report:
            print(f'report: {paths["report"]}')


def evaluate_arms(
    args: argparse.Namespace, truth: evaluation.GroundTruth, notes: list[str]
) -> tuple[list[evaluation.Arm], list[evaluation.Breakdown], dict, evaluation.Detections]:
    """Evaluate each detector's files, and add to ``notes`` what is to be known of them.

    Returns:
        The detectors, the measured one first; the breakdowns of its trainings; AP by finer sizes
        of each detector's first training, if it is asked for; the first file's detections.
    """
    rules = dict(
        backend=args.backend,
        category_ids=chosen_categories(args, truth),
        max_detections=evaluation.limits_up_to(args.max_dets),
    )
    arms, breakdowns, sizes, first = [], [], {}, None
    for name, files in arm_names(args).items():
        runs = []
        for file in files:
            detections = evaluation.load_detections(
                file, truth, args.category_shift, args.category_positions
            )
            notes += evaluation.notes_on(detections, truth, args.max_dets)
            runs.append(evaluation.evaluate(truth, detections, **rules))
            if not arms:
                breakdowns.append(evaluation.break_down(runs[-1], truth, detections))
            if args.per_size and len(runs) == 1:
                sizes[name] = evaluation.ap_by_size(runs[0], truth, detections)
            if first is None:
                first = detections
        arms.append(evaluation.Arm(name, files, runs))
    return arms, breakdowns, sizes, first


def arm_names(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the files of each detector by the name of its row, the measured one first."""
    arms = {args.label: args.results}
    for files in args.baseline:
        name = 'baseline' if len(args.baseline) == 1 else Path(files[0]).name.partition('.')[0]
        name = clean(name)
        while name in arms:
            name += "'"
        arms[name] = files
    return arms


def chosen_categories(args: argparse.Namespace, truth: evaluation.GroundTruth) -> np.ndarray | None:
    """Return the ids of the categories to score, None for all."""
    names = args.classes
    if isinstance(names, str):  # else the config's; a name may hold a comma itself
        known = names in truth.category_names.values()
        names = [names] if known else [name.strip() for name in names.split(',')]
    return None if names is None else truth.categories_named(names)


def output_paths(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write, none of which may be one that is read."""
    paths = {'json': args.out_json, 'csv': args.out_csv, 'md': args.out_md}
    paths = {name: Path(path) for name, path in paths.items() if path}
    if args.report:
        paths['report'] = Path(args.report) / 'index.html'
    read = [args.ann, *args.results, *(file for files in args.baseline for file in files)]
    inputs = [Path(path).resolve() for path in read]
    resolved = [path.resolve() for path in paths.values()]
    for path in resolved:
        if path in inputs:
            raise InputError(f'{path} is read and cannot be written; name another output')
        if resolved.count(path) > 1:
            raise InputError(f'{path} is named for two outputs; name different files')
    return paths


if __name__ == '__main__':
    run_tool(main)
