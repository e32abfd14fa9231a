"""The command line of the benchmark: which cases run, the table, the JSON."""

from __future__ import annotations

import argparse
import os
import platform

import torch

from lip_mmdet.benchmark.operators import STEM_SHAPE, measure_operators
from lip_mmdet.errors import InputError
from lip_mmdet.files import write_json

COLUMNS = {
    'case': '{}',
    'milliseconds': '{:.1f}',
    'fastest': '{:.1f}',
    'ratio': '{:.2f}',
    'megabytes': '{:.0f}',
    'over_least': '{:.2f}',
    'gigabytes_per_second': '{:.1f}',
    'deviation': '{:.0e}',
    'peak_megabytes': '{:.0f}',
    'peak_ratio': '{:.2f}',
}

WHAT = ['operators', 'backbones', 'all', 'detectors']
DTYPES = ['float32', 'bfloat16', 'float16']
DEPTHS = [18, 34, 50, 101, 152]
LAYOUTS = ['contiguous', 'channels_last', 'defaults']


def main(arguments: list[str] | None = None) -> None:
    """Measure what the arguments ask for, print a table for each group, write ``--out-json``."""
    args = _parser().parse_args(arguments)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda: PyTorch sees no GPU here; leave it out or take cpu')
    dtypes = [getattr(torch, name) for name in args.dtypes]
    rows = []
    print(_machine(device))
    if args.what in ('operators', 'all'):
        for dtype in dtypes:
            for backward in (False, True):
                for channels_last in (False, True):
                    group = measure_operators(
                        tuple(args.shape),
                        dtype,
                        channels_last,
                        backward,
                        device,
                        args.repeats,
                        args.compiled,
                    )
                    _show('operators', group)
                    rows += group
    if args.what in ('backbones', 'all'):
        from lip_mmdet.benchmark.backbones import measure_backbones

        for dtype in dtypes:
            for depth in args.depths:
                for training in {'eval': [False], 'train': [True]}.get(args.mode, [False, True]):
                    for layout in args.layouts:
                        group = measure_backbones(
                            depth,
                            training,
                            layout,
                            dtype,
                            device,
                            max(2, args.repeats // 3),
                            args.memory,
                            exported=args.runtime == 'onnxruntime',
                            compiled=args.compiled,
                        )
                        _show('backbones', group)
                        rows += group
    if args.what == 'detectors':
        from lip_mmdet.benchmark.detectors import DETECTORS, measure_detectors

        names = DETECTORS if args.compiled else DETECTORS[:-1]
        for dtype in dtypes:
            for depth in args.depths:
                repeats = max(2, args.repeats // 3)
                group = measure_detectors(depth, dtype, device, repeats, args.memory, names)
                _show('detectors', group)
                rows += group
    if args.out_json:
        write_json(args.out_json, dict(machine=_machine(device), rows=rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', nargs='?', default='all', choices=WHAT)
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: a GPU if there is one')
    parser.add_argument(
        '--repeats', type=positive, default=15, help='timed runs; a third for networks'
    )
    parser.add_argument('--shape', type=positive, nargs=4, default=STEM_SHAPE, help='of the maps')
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['float32'])
    parser.add_argument('--depths', type=int, nargs='+', choices=DEPTHS, default=[50])
    parser.add_argument('--mode', choices=['eval', 'train', 'both'], default='both')
    parser.add_argument('--layouts', nargs='+', choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument(
        '--runtime',
        choices=['torch', 'onnxruntime'],
        default='torch',
        help='onnxruntime: time the backbones there, too (with --mode eval)',
    )
    parser.add_argument('--memory', action='store_true', help='measure peak memory of networks')
    parser.add_argument(
        '--compiled',
        action='store_true',
        help="time torch.compile's, too, which takes up to half a minute for each case before",
    )
    parser.add_argument('--out-json', help='write all figures here')
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is not positive')
    return number


def _machine(device: str) -> str:
    name = (
        torch.cuda.get_device_name() if device == 'cuda' else f'{torch.get_num_threads()} threads'
    )
    load = f', load {os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else ''
    return f'torch {torch.__version__}, Python {platform.python_version()}, {device}: {name}{load}'


def _show(title: str, rows: list[dict]) -> None:
    about = [f'{k} {v}' for k, v in rows[0].items() if k not in COLUMNS]
    print(f'\n{title}: {", ".join(about)}')
    columns = {name: form for name, form in COLUMNS.items() if name in rows[0]}
    lines = [list(columns)]
    lines += [[f.format(r[n]) if n in r else '' for n, f in columns.items()] for r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print('  ' + '  '.join(cell.rjust(width) for cell, width in zip(line, widths)), flush=True)
