"""Try LIP in every config of the installed MMDetection, and write what came of it as a table.

tools/survey_configs.py [--out configs/README.md]

A config counts as working with two lines if LIPResNet builds from its backbone's arguments as they
stand, or LIPBackbone around the backbone, and gives features of the same shapes; and with
LIPBackbone gradients for all of LIP. Without `--out` the table is printed; with it, it takes
the place of the one in the file, below the line that names this script.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Iterator

from lip_mmdet.command_line import run_tool

MARK = '<!-- made by tools/survey_configs.py -->\n'
NOT_READABLE = 'not readable here'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='Markdown file to update')
    args = parser.parse_args()
    import mmdet
    from rich.console import Console
    from rich.progress import track

    from lip_mmdet.errors import InputError
    from lip_mmdet.files import replace_on_success, write_text

    root = Path(mmdet.__file__).parent / '.mim' / 'configs'
    paths = [p for p in sorted(root.rglob('*.py')) if '_base_' not in p.parts]
    if not paths:
        raise InputError(f'{root} has no configs: install MMDetection as a wheel')
    text = args.out.read_text(encoding='utf-8') if args.out else MARK
    if MARK not in text:
        raise InputError(f'{args.out} has no line {MARK.strip()}')
    console = Console(stderr=True)
    table = as_markdown(survey(root, track(paths, console=console)), mmdet.__version__)
    if args.out:
        with replace_on_success(args.out) as file:
            write_text(file, text.split(MARK)[0] + MARK + table, args.out)
    else:
        print(table)


def survey(root: Path, paths) -> Iterator[tuple[str, str, str]]:
    """Try configs.

    Yields:
        Folder, backbone, and what keeps LIP out: '' if nothing does. Configs of no backbone, such
        as tests' augmentations, are left out.
    """
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import lip_mmdet.plugin  # noqa: F401

    init_default_scope('mmdet')
    warnings.simplefilter('ignore')
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115  # configs and backbones that talk
    try:
        for path in paths:
            folder = path.relative_to(root).parts[0]
            try:
                backbone = find_backbone(Config.fromfile(path).get('model'))
            except Exception:  # whatever a config may import or read
                yield folder, NOT_READABLE, 'needs a package or a file that is not there'
                continue
            if backbone is not None:
                yield folder, name_of(backbone), what_is_wrong(backbone)
    finally:
        sys.stdout = sys.__stdout__


def find_backbone(model) -> dict | None:
    """Return the backbone of a detector, also of one within a tracker or a teacher's pair."""
    if not isinstance(model, dict):
        return None
    backbone = model.get('backbone')
    if isinstance(backbone, dict) and 'type' in backbone:
        return backbone
    return find_backbone(model.get('detector'))


def name_of(backbone: dict) -> str:
    kind = str(getattr(backbone['type'], '__name__', backbone['type'])).split('.')[-1]
    return f'ResNet, {backbone.get("style", "pytorch")}' if kind == 'ResNet' else kind


TRIED: dict[str, str] = {}  # backbones that many configs share


def what_is_wrong(backbone: dict) -> str:
    key = repr(backbone)
    if key not in TRIED:
        TRIED[key] = try_lip(backbone)
    return TRIED[key]


def try_lip(backbone: dict) -> str:
    try:
        if name_of(backbone).startswith('ResNet,'):
            same = features(backbone, 'LIPResNet') == features(backbone, 'mmdet.ResNet')
        else:
            same = wrapped_features(backbone) == features(backbone, backbone['type'])
    except Exception as error:  # what a backbone's constructor may raise is not known
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        return reason[:100]
    return '' if same else 'features of other shapes'


def features(backbone: dict, kind: str) -> list[tuple[int, ...]]:
    """Return the shapes of a backbone's features, its type replaced by ``kind``."""
    import torch
    from mmdet.registry import MODELS

    def shapes() -> list[tuple[int, ...]]:
        net = MODELS.build(dict(backbone, type=kind, init_cfg=None))
        net.eval()  # which returns nothing in MMDetection
        # Deformable convolutions want maps no smaller than their kernel at stride 32.
        image = torch.zeros(1, backbone.get('in_channels', 3), 128, 128)
        return [tuple(feature.shape) for feature in net(image)]

    with torch.no_grad():
        try:
            with torch.device('meta'):  # without values, in milliseconds
                return shapes()
        except (RuntimeError, AttributeError):  # mmcv's operators and torch 1.13 have none such
            return shapes()


def wrapped_features(backbone: dict) -> list[tuple[int, ...]]:
    """Return the shapes of a backbone's features with LIP wherever it downsamples."""
    import torch

    from lip_mmdet.backbones import LIPBackbone
    from lip_mmdet.errors import InputError

    net = LIPBackbone(dict(backbone, init_cfg=None))
    net.eval()
    found = net(torch.rand(1, backbone.get('in_channels', 3), 128, 128))
    # Untrained and deep, some overflow; mmcv's deformable convolutions end the process on NaN.
    if all(feature.isfinite().all() for feature in found):
        sum(feature.square().mean() for feature in found).backward()
        silent = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
        if any('.logit.' in name for name in silent):
            raise InputError('LIP gets no gradient')
    return [tuple(feature.shape) for feature in found]


def as_markdown(found: Iterator[tuple[str, str, str]], version: str) -> str:
    by_backbone: dict[str, Counter] = defaultdict(Counter)
    by_folder: dict[str, Counter] = defaultdict(Counter)
    for folder, backbone, wrong in found:
        by_backbone[backbone][wrong] += 1
        by_folder[folder]['' if not wrong else backbone] += 1
    total = sum(sum(c.values()) for name, c in by_backbone.items() if name != NOT_READABLE)
    works = sum(c[''] for c in by_backbone.values())
    lines = [
        f'Of the {total} configs of MMDetection {version} that name a backbone {works} become LIP '
        'ones with two lines: LIPResNet builds from the arguments of a ResNet, LIPBackbone around '
        'another backbone, and gives features of the same shapes.',
        '',
        '| backbone | configs | with two lines | otherwise |',
        '|---|---:|---:|---|',
    ]
    for backbone, reasons in sorted(
        by_backbone.items(), key=lambda item: (-item[1][''], -sum(item[1].values()), item[0])
    ):
        others = '; '.join(f'{n}: {reason}' for reason, n in reasons.most_common() if reason)
        lines.append(f'| {backbone} | {sum(reasons.values())} | {reasons[""]} | {others} |')
    lines += [
        '',
        "By folder of MMDetection's `configs`:",
        '',
        '| folder | with two lines | no LIP for |',
        '|---|---:|---|',
    ]
    for folder, backbones in sorted(by_folder.items()):
        others = ', '.join(f'{b} ({n})' for b, n in sorted(backbones.items()) if b)
        lines.append(f'| {folder} | {backbones[""]} of {sum(backbones.values())} | {others} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run_tool(main)
