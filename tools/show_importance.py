"""What LIP looks at in images: a picture of each, and a page with a slider for all.

tools/show_importance.py CONFIG CHECKPOINT IMAGES... --out DIR

Images are files or folders. A picture shows the image with its detections, the selectivity of LIP
at each level (0 % where it averages a window, 100 % where it takes one position of it), and the
logit channels of the first LIP that vary most.
"""

import argparse
import sys
from pathlib import Path

from lip_mmdet.command_line import run_tool


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='of a detector with LIP')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('images', nargs='+', type=Path, help='files, or folders of them')
    parser.add_argument('--out', required=True, type=Path, metavar='DIR', help='where pictures go')
    parser.add_argument(
        '--min-score', type=float, default=0.3, help='of detections shown; %(default)s'
    )
    parser.add_argument('--device', default='cpu', help='such as cuda:0; default: %(default)s')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    return parser.parse_args()


def main() -> None:
    # Says first what is missing of MMDetection.
    from rich.console import Console
    from rich.progress import track

    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine.detector import image_files, load_detector
    from lip_mmdet.engine.importance import importance_views
    from lip_mmdet.engine.mmdet_tools import read_config
    from lip_mmdet.errors import InputError
    from lip_mmdet.visualization.importance import ImportancePage

    args = parse_args()
    images = list(image_files(args.images))
    model = load_detector(read_config(args), args.checkpoint, args.device)
    page = ImportancePage(args.out, Path(args.config).stem)
    drawn = 0
    views = importance_views(model, images, args.min_score)
    # A terminal's bar, with the time left.
    bar = dict(total=len(images), console=Console(stderr=True), transient=True)
    for path, view in track(views, 'drawing', disable=not sys.stderr.isatty(), **bar):
        if view is None:
            print(f'left out: {path} cannot be read as an image', file=sys.stderr)
            continue
        drawn += 1
        print(f'[{drawn}/{len(images)}] {page.add(path.name, view)}', flush=True)
    if not drawn:
        raise InputError(f'none of {len(images)} files could be read as an image')
    print(f'open {page.write()}')


if __name__ == '__main__':
    run_tool(main)
