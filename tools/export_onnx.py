"""Write a detector, or its backbone and neck, as an ONNX file; see docs/export.md.

tools/export_onnx.py CONFIG CHECKPOINT --out m.onnx [--int8 IMAGES | --detector IMAGES]
"""

import argparse
from pathlib import Path

from lip_mmdet.command_line import run_tool


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="the detector's config")
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('--out', required=True, metavar='FILE', help='the file to write')
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        '--int8',
        metavar='IMAGES',
        help='a folder of images that calibrate a second file, FILE.int8.onnx, whose convolutions '
        'are in int8; every fourth is held out to judge it',
    )
    kind.add_argument(
        '--detector',
        metavar='IMAGES',
        help='write all of a RetinaNet or a Faster R-CNN, not backbone and neck alone, if it finds '
        'in a folder of images what it finds in PyTorch',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    return parser.parse_args()


def main() -> None:
    # Says first what is missing of MMDetection.
    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine import export
    from lip_mmdet.engine.mmdet_tools import read_config

    args = parse_args()
    config = read_config(args)
    features = export.load_features(config, args.checkpoint)
    folder = args.int8 or args.detector
    images = export.read_images(config, features.detector, folder) if folder else []
    if args.detector:
        from lip_mmdet.engine.export_detector import export_detector

        same = export_detector(features.detector, args.out, images)
        print(
            f"{same['count']} boxes in {len(images)} images are PyTorch's, within "
            f'{same["pixels"]:.1e} pixels and {same["score"]:.1e} in score'
        )
    else:
        channels = export.image_channels(config)
        for name, difference in export.export_onnx(features, args.out, channels).items():
            print(f'{name}: differs from PyTorch by {difference:.1e} of its largest value at most')
    print(f'wrote {args.out}')
    if args.int8:
        out = Path(args.out).with_suffix('.int8.onnx')
        batches = [batch.numpy() for batch, _ in images]
        for name, cosine in export.export_int8(args.out, out, batches).items():
            print(f'{name}: cosine to float32 on images held out {cosine:.4f} at least')
        print(f'wrote {out}')


if __name__ == '__main__':
    run_tool(main)
