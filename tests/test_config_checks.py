"""A config whose data is not what it says, told in one line before anything is built."""

import json
from pathlib import Path

import mmdet
import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hub import get_config
from PIL import Image
from shapes import make_shapes_dataset

from lip_mmdet.engine.config_checks import _judged, check_data
from lip_mmdet.errors import InputError


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes_dataset(folder, num_train=2, num_val=1)
    (folder / 'cut.json').write_text((folder / 'train.json').read_text()[:-40])
    (folder / 'results.json').write_text(json.dumps([dict(image_id=1)]))
    (folder / 'labels.json').write_text(json.dumps(dict(images=[], labels=[])))
    sound = json.loads((folder / 'train.json').read_text())
    broken = {
        'unsized': dict(images=[dict(id=1, file_name='a'), dict(id=2, file_name='b')]),
        'boxless': dict(annotations=[dict(id=1, image_id=1, category_id=1)]),
        'unlabelled': dict(annotations=None),
        'words': dict(categories=['square', 'circle', 'triangle']),
    }
    for name, change in broken.items():
        content = {k: v for k, v in {**sound, **change}.items() if v is not None}
        (folder / f'{name}.json').write_text(json.dumps(content))
    return folder


def checked(config, loader):
    _judged.clear()  # the same data in every test
    return check_data(config, loader)


def config(data, wrapped=False, num_classes=3, **dataset):
    sound = dict(
        type='CocoDataset',
        data_root=str(data),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('square', 'circle', 'triangle')),
    )
    dataset = {**sound, **dataset}
    if wrapped:
        dataset = dict(type='RepeatDataset', times=3, dataset=dataset)
    head = dict(type='Shared2FCBBoxHead', num_classes=num_classes)
    return Config(
        dict(
            train_dataloader=dict(dataset=dataset),
            model=dict(rpn_head=dict(num_classes=1), roi_head=dict(bbox_head=[head, head])),
        )
    )


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_sound_config_passes(data, wrapped):
    checked(config(data, wrapped), 'train_dataloader')
    checked(config(data, wrapped), 'val_dataloader')  # has none


@pytest.mark.parametrize(
    'name',
    [
        'htc/htc_r50_fpn_1x_coco.py',
        'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        'glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        'retinanet/retinanet_r50_fpn_1x_coco.py',
    ],
)
def test_mmdetections_own_configs_agree_with_themselves(monkeypatch, tmp_path, name):
    """Their heads, whatever else they count, have the 80 classes of COCO."""
    if not (Path(mmdet.__file__).parent / '.mim' / 'configs' / name).is_file():
        pytest.skip(f'mmdet {mmdet.__version__} has no such config')
    config = get_config(f'mmdet::{name}')
    categories = [dict(id=i, name=c) for i, c in enumerate(CocoDataset.METAINFO['classes'])]
    content = dict(images=[], annotations=[], categories=categories)
    content['images'] = [dict(id=1, file_name='a.jpg', width=99, height=99)]
    box = dict(image_id=1, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
    content['annotations'] = [dict(box, id=1, segmentation=[[1, 1, 9, 1, 9, 9]])]
    monkeypatch.chdir(tmp_path)
    annotations = tmp_path / 'data/coco/annotations'
    annotations.mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (tmp_path / 'data/coco' / split).mkdir()
        (annotations / f'instances_{split}.json').write_text(json.dumps(content))
        Image.new('RGB', (99, 99)).save(tmp_path / 'data/coco' / split / 'a.jpg')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        checked(config, loader)


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_root='nowhere'), 'no dataset folder nowhere'),
        (dict(ann_file='nowhere.json'), 'no annotation file .*nowhere.json'),
        (dict(data_prefix=dict(img='nowhere')), 'no image folder .*nowhere'),
        (dict(ann_file='cut.json'), 'cut.json'),
        (dict(ann_file='results.json'), 'results.json'),
        (dict(ann_file='labels.json'), 'labels.json'),
        (
            dict(ann_file='unsized.json'),
            'unsized.json: image number 1 has no width .2 such of 2.; MMDetection needs it',
        ),
        (dict(ann_file='boxless.json'), 'boxless.json.* bbox'),
        (dict(ann_file='unlabelled.json'), 'nothing to train on: 0 boxes in 2 images'),
        (dict(ann_file='words.json'), 'words.json'),
        (dict(metainfo=dict(classes=('square', 'ring', 'triangle'))), 'no category "ring"; it has'),
        (
            dict(metainfo=dict(classes=('square',))),
            r'bbox_head\[0\].num_classes is 3, .* 1 classes',
        ),
        (dict(num_classes=80), r'num_classes is 80, but train_dataloader.dataset has 3 classes'),
        (dict(metainfo=dict(), num_classes=3), 'no category "person"'),
        (dict(metainfo=dict(classes=('square', 'square'))), 'has a name twice'),
        (dict(ann_file=['train.json']), r'ann_file is \["train.json"\]; CocoDataset takes a str'),
        (dict(data_prefix='images/'), 'data_prefix is "images/"; CocoDataset takes a dict'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, change, message, wrapped):
    with pytest.raises(InputError, match=message) as error:
        checked(config(data, wrapped, **change), 'train_dataloader')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['CocoDataset', 'Objects365V1Dataset', 'Objects365V2Dataset'])
@pytest.mark.parametrize('ids', [(1, 2, 3), (3, 2, 1)])
def test_classes_are_numbered_as_each_dataset_does(data, kind, ids):
    content = json.loads((data / 'train.json').read_text())
    for category, number in zip(content['categories'], ids):
        category['id'] = number
    (data / 'ids.json').write_text(json.dumps(content))
    names = {category['id']: category['name'] for category in content['categories']}
    dataset = DATASETS.build(
        dict(
            type=kind,
            data_root=str(data),
            ann_file='ids.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('square', 'circle', 'triangle')),
        )
    )
    numbered = tuple(names[i] for i in sorted(dataset.cat2label, key=dataset.cat2label.get))
    classes = ('square', 'circle', 'triangle')
    judge = config(data, type=kind, ann_file='ids.json', metainfo=dict(classes=classes))
    if numbered == classes:
        notes = checked(judge, 'train_dataloader')
        assert any('Objects365 V2' in note for note in notes) == (kind == 'Objects365V2Dataset')
    else:
        with pytest.raises(InputError, match='another order'):
            checked(judge, 'train_dataloader')


def scored_by(data, change, **metric):
    """Return a config whose metric reads a changed copy of the dataset's file."""
    content = json.loads((data / 'train.json').read_text())
    change(content)
    (data / 'own.json').write_text(json.dumps(content))
    result = config(data)
    result.val_dataloader = result.train_dataloader
    result.val_evaluator = dict(type='CocoMetric', ann_file=str(data / 'own.json'), **metric)
    return result


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda content: content.pop('images'), 'image'),
        (lambda content: content.update(images=[]), 'image'),
        (lambda content: content.update(images=[dict(file_name='a')]), 'image'),
        # MMDetection ends in an AssertionError after an epoch.
        (lambda content: content['images'].pop(), '1 of 2 images of .*train.json are not in .*own'),
    ],
)
def test_a_metrics_own_annotations_list_the_datasets_images(data, change, message):
    with pytest.raises(InputError, match=message):
        checked(scored_by(data, change), 'val_dataloader')


def test_images_that_are_scored_and_not_detected_on_are_counted(data):
    more = scored_by(data, lambda content: content['images'].append(dict(id=9, file_name='a')))
    (note,) = checked(more, 'val_dataloader')
    assert note.startswith('warning: val_evaluator.ann_file: 1 images of annotation file')
    more.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[more.val_dataloader.dataset, more.val_dataloader.dataset]
    )
    assert not checked(more, 'val_dataloader')
    more.val_evaluator.update(type='LIPCocoMetric', ann_file=str(data / 'val.json'))
    assert 'detected there' in checked(more, 'val_dataloader')[0]


def test_coco_metric_needs_masks_of_every_object_to_score_masks(data):
    def bare(content):
        for annotation in content['annotations']:
            annotation['segmentation'] = []

    checked(scored_by(data, bare), 'val_dataloader')
    with pytest.raises(InputError, match='number 1 has segmentation'):
        checked(scored_by(data, bare, metric=['bbox', 'segm']), 'val_dataloader')


@pytest.mark.parametrize(
    ('size', 'orientation', 'said'),
    [
        (1, 1, ''),
        (1, 6, 'are not of the size listed'),  # shown turned by a quarter, and loaded so
        (2, 1, 'are not of the size listed'),
    ],
)
def test_images_are_of_the_listed_size_as_they_are_loaded(data, tmp_path, size, orientation, said):
    sound = config(data)
    dataset = sound.train_dataloader.dataset
    dataset.update(data_prefix=dict(img=str(tmp_path)), pipeline=[dict(type='LoadImageFromFile')])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (data / 'images').iterdir():
        width, height = Image.open(path).size
        picture = Image.new('RGB', (size * (width + 8), size * height))
        picture.save(tmp_path / path.name, format='JPEG', exif=exif)
    content = json.loads((data / 'train.json').read_text())
    for image in content['images']:
        image['width'] += 8
    (data / 'wide.json').write_text(json.dumps(content))
    dataset.ann_file = 'wide.json'
    notes = [note for note in checked(sound, 'train_dataloader') if note.startswith('warning')]
    assert len(notes) == bool(said) and all(said in note for note in notes)
    loaded = DATASETS.build(dataset)[0]['img'].shape[:2]
    listed = (content['images'][0]['height'], content['images'][0]['width'])
    assert (loaded == listed) == (not said)

    next(tmp_path.iterdir()).write_text('<html>')
    with pytest.raises(InputError, match='cannot be read, it is no picture or cut short'):
        for name in ('train.json', 'val.json'):
            dataset.ann_file = name
            checked(sound, 'train_dataloader')


def test_ids_that_cannot_be_sorted(data):
    """Objects365 V1's loader sorts categories by id, and ends in a TypeError."""
    content = json.loads((data / 'train.json').read_text())
    content['categories'][0]['id'] = '1'
    (data / 'kinds.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'category number 2 has id 2 .*ids of one kind'):
        checked(config(data, type='Objects365V1Dataset', ann_file='kinds.json'), 'train_dataloader')
