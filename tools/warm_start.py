"""What a trained ResNet detector keeps when LIP moves in: a table, without any training.

tools/warm_start.py CONFIG CHECKPOINT [--out-md FILE] [--cfg-options KEY=VALUE ...]
"""

import argparse
from pathlib import Path

from lip_mmdet.command_line import run_tool


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="the detector's config, with a ResNet as backbone")
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--out-md', metavar='FILE', help='write the table as Markdown')
    parser.add_argument('--work-dir', default='work_dirs/warm_start', help='where logs go')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    return parser.parse_args()


def main() -> None:
    # Says first what is missing of MMDetection.
    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine.mmdet_tools import read_config
    from lip_mmdet.engine.warm_start import FIGURES, score_starts
    from lip_mmdet.files import replace_on_success

    args = parse_args()
    config = read_config(args)
    config.work_dir = args.work_dir
    rows = [f'| start | {" | ".join(FIGURES)} |', '|---' * (len(FIGURES) + 1) + '|']
    for label, figures in score_starts(config, args.checkpoint):
        values = (f'{100 * value:.1f}' if value >= 0 else '-' for value in figures.values())
        rows.append(f'| {label} | {" | ".join(values)} |')
    print('\n'.join(['', *rows]))
    if args.out_md:
        with replace_on_success(Path(args.out_md)) as path:
            path.write_text('\n'.join(rows) + '\n', encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
