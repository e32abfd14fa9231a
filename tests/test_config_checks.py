"""A config whose data is not what it says, told in one line before anything is built."""

import json

import pytest
from mmengine.config import Config

from lip_mmdet.demo.shapes import make_shapes_dataset
from lip_mmdet.engine.config_checks import check_dataset
from lip_mmdet.errors import InputError


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes_dataset(folder, num_train=2, num_val=1)
    (folder / 'cut.json').write_text((folder / 'train.json').read_text()[:-40])
    (folder / 'results.json').write_text(json.dumps([dict(image_id=1)]))
    (folder / 'labels.json').write_text(json.dumps(dict(images=[], labels=[])))
    return folder


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
    check_dataset(config(data, wrapped), 'train_dataloader')
    check_dataset(config(data, wrapped), 'val_dataloader')  # has none


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_root='nowhere'), 'no dataset folder nowhere'),
        (dict(ann_file='nowhere.json'), 'no annotation file .*nowhere.json'),
        (dict(data_prefix=dict(img='nowhere')), 'no image folder .*nowhere'),
        (dict(ann_file='cut.json'), 'cut.json is not whole JSON'),
        (dict(ann_file='results.json'), 'results.json is not in COCO format'),
        (dict(ann_file='labels.json'), 'labels.json is not in COCO format'),
        (dict(metainfo=dict(classes=('square', 'ring', 'triangle'))), "no category 'ring'; it has"),
        (
            dict(metainfo=dict(classes=('square',))),
            r'bbox_head\[0\].num_classes is 3, .* 1 classes',
        ),
        (dict(num_classes=80), r'num_classes is 80, but train_dataloader.dataset has 3 classes'),
        (dict(metainfo=dict(), num_classes=3), "no category 'person'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, change, message, wrapped):
    with pytest.raises(InputError, match=message) as error:
        check_dataset(config(data, wrapped, **change), 'train_dataloader')
    assert '\n' not in str(error.value)
