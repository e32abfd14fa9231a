"""tools/prepare_data.py on small sources in the published layout."""

import json
import tarfile
from urllib.error import URLError

import numpy as np
import prepare_data
import pytest
from PIL import Image
from tiny_detector import run_tool

from lip_mmdet.errors import InputError

# Box of each mask as x, y, w, h; the image's size is that of the smaller sides and 10 px.
NUCLEI = {
    'a' * 64: [(3, 2, 5, 4)],
    'b' * 64: [(0, 0, 9, 2), (4, 5, 3, 3)],
    'c' * 64: [(1, 1, 3, 3)],
    'd' * 64: [(2, 2, 4, 6)],
}


@pytest.fixture
def nuclei(tmp_path):
    """A source of four images: the first is coloured, the third wide, the fourth in validation."""
    rng = np.random.default_rng(0)
    for number, (name, boxes) in enumerate(NUCLEI.items(), start=1):
        folder = tmp_path / 'source/stage1_train' / name
        (folder / 'images').mkdir(parents=True)
        (folder / 'masks').mkdir()
        size = (10, 400 if number == 3 else 12)
        picture = np.broadcast_to(rng.integers(0, 200, (*size, 1)), (*size, 4)).astype(np.uint8)
        if number == 1:
            picture = picture + np.array([5, 0, 0, 0], np.uint8)
        Image.fromarray(picture).save(folder / f'images/{name}.png')
        for index, (x, y, w, h) in enumerate(boxes):
            mask = np.zeros(size, np.uint8)
            mask[y : y + h, x : x + w] = 255
            mask[y + 1, x + 1 : x + w - 1] = 0  # a hole: the box stays, the mask's area does not
            Image.fromarray(mask).save(folder / f'masks/{index}.png')
    return tmp_path / 'source'


def read(folder, split):
    return json.loads((folder / f'{split}.json').read_text())


def accept(monkeypatch, name, hashes):
    monkeypatch.setitem(
        prepare_data.SOURCES, name, prepare_data.SOURCES[name]._replace(hashes=hashes)
    )


def test_masks_become_boxes_and_images_keep_their_pixels(nuclei, tmp_path, monkeypatch, capsys):
    archive = tmp_path / 'source.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(nuclei, arcname='repository-commit')
    out = tmp_path / 'data/dsb2018'
    with pytest.raises(InputError, match='come out different'):
        prepare_data.prepare('dsb2018', out, archive)
    assert not list(out.parent.iterdir())

    made = prepare_data.dsb2018(prepare_data.read_source(prepare_data.SOURCES['dsb2018'], nuclei))
    for name, content in made.items():
        (tmp_path / 'by_hand' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'by_hand' / name).write_bytes(content)
    splits = prepare_data.SOURCES['dsb2018'].splits
    accept(monkeypatch, 'dsb2018', prepare_data.fingerprint(tmp_path / 'by_hand', splits))
    prepare_data.prepare('dsb2018', out, archive)

    shown = {s: [i['source_id'][0] for i in read(out, s)['images']] for s in splits}
    assert shown == {'train': [*'abc'], 'val': ['d'], 'train_small': [*'ab'], 'val_small': ['d']}
    for split in splits:
        content = read(out, split)
        names = {image['id']: image['source_id'] for image in content['images']}
        boxes = {name: [] for name in names.values()}
        for number, box in enumerate(content['annotations'], start=1):
            x, y, w, h = box['bbox']
            boxes[names[box['image_id']]].append((x, y, w, h))
            assert box['id'] == number
            assert (box['area'], box['mask_area']) == (w * h, w * h - (w - 2))
            assert box['iscrowd'] == (h == 2)
        assert boxes == {name: NUCLEI[name] for name in names.values()}
        for image in content['images']:
            source = nuclei / f'stage1_train/{image["source_id"]}/images/{image["source_id"]}.png'
            with Image.open(out / 'images' / image['file_name']) as picture:
                assert picture.size == (image['width'], image['height'])
                assert picture.mode == {'grey': 'L', 'colour': 'RGB'}[image['modality']]
                assert (image['modality'] == 'colour') == (image['id'] == 1)
                pixels = np.array(picture.convert('RGB'))
            np.testing.assert_array_equal(pixels, np.array(Image.open(source))[..., :3])

    # Compressed otherwise it is still complete; with another pixel it is not.
    first = out / f'images/{"a" * 16}.png'
    picture = Image.open(first).copy()
    picture.save(first, compress_level=0)
    prepare_data.prepare('dsb2018', out)
    assert 'is complete' in capsys.readouterr().out
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(first)
    with pytest.raises(InputError, match='holds something else'):
        prepare_data.prepare('dsb2018', out, archive)


def test_voc_boxes_keep_their_corners_and_points_are_left_out(tmp_path):
    folder = tmp_path / 'BCCD'
    for part in ('ImageSets/Main', 'JPEGImages', 'Annotations'):
        (folder / part).mkdir(parents=True)
    (tmp_path / 'LICENSE').write_text('MIT')
    item = '<object><name>{}</name><bndbox><a>{}</a><a>{}</a><a>{}</a><a>{}</a></bndbox></object>'
    items = item.format('Platelets', 3, 4, 13, 24) + item.format('RBC', 7, 7, 7, 7)
    for split in ('train', 'val'):
        (folder / f'ImageSets/Main/{split}.txt').write_text(f'{split}_1\n')
        (folder / f'JPEGImages/{split}_1.jpg').write_bytes(split.encode())
        (folder / f'Annotations/{split}_1.xml').write_text(
            f'<annotation><size><width>64</width><height>48</height></size>{items}</annotation>'
        )
    made = prepare_data.bccd(prepare_data.read_source(prepare_data.SOURCES['bccd'], tmp_path))
    assert made['LICENSE'] == b'MIT' and made['images/val_1.jpg'] == b'val'
    content = json.loads(made['val.json'])
    assert content['images'] == [dict(id=1, file_name='val_1.jpg', width=64, height=48)]
    box = dict(category_id=3, bbox=[3, 4, 10, 20], area=200, iscrowd=0)
    assert content['annotations'] == [dict(id=1, image_id=1, **box)]


def test_what_cannot_be_had_is_said_in_one_line(tmp_path, monkeypatch):
    done = run_tool('prepare_data.py', 'bccd', '--source', tmp_path, folder=tmp_path, check=False)
    assert done.returncode == 2 and 'is not Shenggan/BCCD_Dataset at d272fb1' in done.stderr
    assert done.stderr.count('\n') == 1

    def no_network(*args, **kwargs):
        raise URLError('no network')

    monkeypatch.setattr(prepare_data, 'urlopen', no_network)
    with pytest.raises(InputError, match=r'no network.*--source'):
        prepare_data.prepare('bccd', tmp_path / 'bccd')
    assert not list(tmp_path.iterdir())
