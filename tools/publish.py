"""Make a checkpoint of a training run ready to hand on: weights and classes alone.

tools/publish.py CHECKPOINT [--out PREFIX]
"""

import argparse
from pathlib import Path

from lip_mmdet.command_line import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='as a training run saved it')
    parser.add_argument(
        '--out', metavar='PREFIX', help='PREFIX-HASH.pth is written; default: beside the checkpoint'
    )
    return parser.parse_args()


def main() -> None:
    # Says first what is missing of MMDetection.
    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine.publish import publish

    args = parse_args()
    prefix = args.out or str(Path(args.checkpoint).with_suffix(''))
    print(f'wrote {publish(args.checkpoint, prefix)}')


if __name__ == '__main__':
    run_tool(main)
