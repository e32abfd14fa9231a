"""What is said of a file is what MMDetection's own loader does with it."""

import contextlib
import io
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from test_any_file import TRUTH, changed, changes

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.coco_file import read_coco
from lip_mmdet.evaluation.loader_view import loader_view

pytest.importorskip('mmdet')
from mmdet.datasets import CocoDataset

FILTER = dict(filter_empty_gt=True, min_size=32)


def by_mmdetection(path, classes, **options):
    """Return images, boxes and crowds that the loader hands out; None where it raises."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            dataset = CocoDataset(
                ann_file=str(path),
                metainfo=dict(classes=classes),
                data_prefix=dict(img='images/'),
                serialize_data=False,
                **options,
            )
            instances = [i for info in dataset.data_list for i in info['instances']]
            crowds = sum(i['ignore_flag'] for i in instances)
            return len(dataset.data_list), len(instances) - crowds, crowds
        except Exception:
            return None


def by_us(path, classes, filter_cfg):
    try:
        view = loader_view(read_coco(path), classes, filter_cfg)
    except InputError as error:
        assert '\n' not in str(error)
        return None
    return len(view.file_names), view.boxes, view.crowds


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(changes)
@example([(('annotations', 'id'), 'gone', 0)])
@example([(('annotations', 'area'), 0, 'all')])
@example([(('annotations', 'ignore'), 1, 1)])
@example([(('images', 'id'), 1, 1)])
def test_as_mmdetections_loader(tmp_path, content):
    path = tmp_path / 'ann.json'
    path.write_text(json.dumps(changed(content)[0]))
    for classes in (('bolt', 'nut'), ('nut',)):
        for test in (False, True):
            options = dict(test_mode=test, filter_cfg=FILTER)
            expected = by_mmdetection(path, classes, **options)
            found = by_us(path, classes, None if test else FILTER)
            # What holds no box at all may be refused.
            assert found == expected or (found is None and expected[1:] == (0, 0))


def test_boxes_are_counted_by_reason(tmp_path):
    def annotation(number, image=1, **change):
        box = dict(id=number, image_id=image, category_id=3, bbox=[9, 9, 9, 9], area=81, iscrowd=0)
        return {**box, **change}

    truth = dict(TRUTH)
    truth['annotations'] = [
        annotation(1),
        annotation(2, iscrowd=1),
        annotation(3, area=0),
        annotation(4, bbox=[500, 9, 9, 9]),
        annotation(5, bbox=[9, 9, 0.5, 9]),
        annotation(6, bbox=[60, 60, -10, -10]),
        annotation(7, ignore=1),
        annotation(8, image=2, area=0),
        annotation(9, image=99),
        annotation(10, category_id=7),
    ]
    path = tmp_path / 'ann.json'
    path.write_text(json.dumps(truth))
    view = loader_view(read_coco(path), ('bolt',), FILTER)
    assert (view.boxes, view.crowds, view.background, view.box_count) == (1, 1, 1, 8)
    assert view.left_out == {
        'marked ignore': 1,
        'less than 1 px wide or high': 2,
        'wholly outside the image': 1,
        'without area': 2,
    }
    assert view.left_out_images == {'no object of the classes': 1}
    assert by_mmdetection(path, ('bolt',), filter_cfg=FILTER) == (2, 1, 1)
    assert len(view.notes) == 1 and '1 of 10 annotations name images' in view.notes[0]
