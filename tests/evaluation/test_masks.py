"""Masks are scored as pycocotools scores them, to the last bit; what would hang it is refused.

``LIP_MMDET_EXAMPLES=5000`` has the property tests try so many random datasets.
"""

import copy
import json
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from test_any_file import by_the_tool
from test_backends import assert_arrays_are_equal, assert_matches_are_equal, coco_evaluation

from lip_mmdet import evaluation
from lip_mmdet.evaluation.masks import _fill

SIZE = 12, 16
EXAMPLES = int(os.environ.get('LIP_MMDET_EXAMPLES', 60))


def runs(pixels):
    """Return the run lengths of a mask, in columns, the first of zeros."""
    flat = np.asarray(pixels, dtype=np.int8).ravel(order='F')
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def compressed(pixels):
    code = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return dict(size=list(pixels.shape), counts=code['counts'].decode())


def uncompressed(pixels):
    return dict(size=list(pixels.shape), counts=runs(pixels))


@st.composite
def pixels(draw):
    """Draw a mask: a rectangle, some of it noise, perhaps none at all; now and then transposed."""
    top, left = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    height, width = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    seed = draw(st.none() | st.integers(0, 9))
    if seed is not None:
        mask &= np.random.default_rng(seed).random(SIZE) < 0.8
    return mask if draw(st.integers(0, 9)) else mask.T


CORNERS = st.integers(0, 16) | st.floats(-3, 20)
POLYGONS = st.lists(st.lists(CORNERS, min_size=6, max_size=11), min_size=1, max_size=2)
IDS = st.integers(-50, 50)


@st.composite
def datasets(draw):
    images = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
    classes = draw(st.lists(IDS, min_size=1, max_size=2, unique=True))
    place = st.tuples(st.sampled_from(images), st.sampled_from(classes))
    objects = draw(
        st.lists(st.tuples(place, pixels().map(compressed) | pixels().map(uncompressed) | POLYGONS),
                 max_size=9)
    )  # fmt: skip
    found = draw(st.lists(st.tuples(place, pixels()), min_size=1, max_size=24))
    scores = st.sampled_from([0.3, 0.5, 0.9]) | st.floats(0, 1)
    truth = dict(
        images=[dict(id=i, height=SIZE[0], width=SIZE[1]) for i in images],
        categories=[dict(id=c, name=str(c)) for c in classes],
        annotations=[
            dict(id=n, image_id=image, category_id=category, segmentation=mask,
                 area=draw(st.sampled_from([0, 20.5, 1024, 9216])),
                 iscrowd=int(draw(st.integers(0, 4)) == 0))
            for n, ((image, category), mask) in enumerate(objects, start=draw(st.integers(1, 9)))
        ],
    )  # fmt: skip
    results = [
        dict(image_id=image, category_id=category, score=draw(scores), segmentation=mask)
        for (image, category), mask in found
    ]
    return truth, results


def mask_evaluation(truth, results, **parameters):
    """Return pycocotools' evaluation of masks, which knows results by compressed RLE alone."""
    results = [dict(r, segmentation=compressed(r['segmentation'])) for r in results]
    return coco_evaluation(truth, results, 'segm', **parameters)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    datasets(),
    st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
    st.just(np.linspace(0.5, 0.95, 10)) | st.just(np.array([0.1, 1.0])),
    st.sampled_from([compressed, uncompressed]),
)
def test_masks_of_any_kind_equal_pycocotools(data, limits, thresholds, kind):
    truth, results = data
    reference = mask_evaluation(truth, results, maxDets=list(limits), iouThrs=thresholds)
    written = [dict(r, segmentation=kind(r['segmentation'])) for r in results]
    checked = evaluation.ground_truth_from(copy.deepcopy(truth), 'truth', masks=True)
    found = evaluation.detections_from(written, checked, 'results')
    for backend in evaluation.BACKENDS:
        ours = evaluation.evaluate(
            checked, found, backend, iou_thresholds=thresholds, max_detections=limits
        )
        assert_arrays_are_equal(ours, reference)
    assert_matches_are_equal(ours, reference)
    assert evaluation.break_down(ours, checked, found).iou_type == 'segm'


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3000), max_size=9), min_size=1, max_size=5))
def test_compressed_codes_are_told_from_others_by_the_sum_of_their_runs(masks):
    codes = [
        coco_mask.frPyObjects(dict(size=[1, sum(m) or 1], counts=m), 1, sum(m) or 1)['counts']
        for m in masks
    ]
    pixels = np.array(list(map(sum, masks)))
    assert _fill(codes, pixels).all()
    empty = np.array([not m for m in masks])
    assert np.array_equal(_fill(codes, pixels + 1), empty)
    assert np.array_equal(_fill([code + b'P' for code in codes], pixels), np.zeros(len(codes)))


SQUARE = np.zeros(SIZE, dtype=bool)
SQUARE[2:9, 3:11] = True
RLE = compressed(SQUARE)
TRUTH = dict(
    images=[dict(id=i, height=12, width=16, file_name=f'{i}.jpg') for i in (1, 2)],
    categories=[dict(id=3, name='bolt'), dict(id=7, name='nut')],
    annotations=[
        dict(id=n, image_id=i, category_id=c, segmentation=s, area=56, iscrowd=0)
        for n, (i, c, s) in enumerate(
            ((1, 3, RLE), (1, 7, [[1, 1, 9, 1, 9, 9]]), (2, 3, uncompressed(SQUARE))), start=1
        )
    ],
)
RESULTS = [
    dict(image_id=a['image_id'], category_id=a['category_id'], segmentation=RLE, score=0.5)
    for a in TRUTH['annotations']
]  # fmt: skip
BAD = {
    'nothing': ...,
    'null': None,
    'empty': [],
    'empty object': {},
    'text': 'mask',
    'no polygon in the list': [[]],
    'a box': [1, 2, 3, 4],
    'two corners': [[1, 2, 5, 9]],
    'NaN': [[1, 2, float('nan'), 9, 4, 4]],
    'corners in quotes': [['1', '2', '5', '9', '4', '4']],
    'far away': [[1, 2, 1e300, 9, 4, 4]],
    'no counts': dict(size=[12, 16]),
    'no size': dict(counts=RLE['counts']),
    'size of one': dict(RLE, size=[192]),
    'no pixels': dict(RLE, size=[0, 16]),
    'half pixels': dict(RLE, size=[12.5, 16]),
    'a huge size': dict(RLE, size=[2**40, 2**40]),
    'runs short of the size': dict(RLE, size=[13, 16]),
    'letters that are none': dict(RLE, counts='~~~é'),
    'a number without end': dict(RLE, counts=RLE['counts'] + 'P'),
    'negative runs': dict(size=[12, 16], counts=[-8, 200]),
    'runs in quotes': dict(size=[12, 16], counts=['192']),
    'runs that do not add up': dict(size=[12, 16], counts=[100, 91]),
}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('side', ['annotations', 'results'])
def test_what_is_no_mask_is_refused_with_its_number(tmp_path, side, name):
    truth, results = copy.deepcopy(TRUTH), copy.deepcopy(RESULTS)
    for record in (truth['annotations'] if side == 'annotations' else results)[1:]:
        record['segmentation'] = BAD[name]
        if BAD[name] is ...:
            del record['segmentation']
    status, err, _ = by_the_tool(tmp_path, truth, results, '--iou-type', 'segm')
    noun = side[:-1] if side == 'annotations' else 'detection'
    assert status == 2 and err.count('\n') == 1 and f'{noun} number 2 has ' in err
    assert 'segmentation' in err and '(2 such of 3)' in err and len(err) < 500


def test_sizes_as_floats_and_polygons_without_corners_are_scored(tmp_path):
    truth = copy.deepcopy(TRUTH)
    truth['annotations'][1]['segmentation'].append([])
    results = [dict(r, segmentation=dict(RLE, size=[12.0, 16.0])) for r in RESULTS]
    status, err, found = by_the_tool(tmp_path, truth, results, '--iou-type', 'segm')
    assert status == 0 and not err
    precision = coco_evaluation(truth, results, 'segm').eval['precision'][..., 0, -1]
    assert found['AP'] == precision[precision > -1].mean()


def test_polygons_in_results_or_without_an_image_size_are_refused(tmp_path):
    results = [dict(r, segmentation=[[1, 1, 9, 1, 9, 9]]) for r in RESULTS]
    _, err, _ = by_the_tool(tmp_path, TRUTH, results, '--iou-type', 'segm')
    assert 'RLE in pixels are expected' in err
    truth = copy.deepcopy(TRUTH)
    del truth['images'][0]['height']
    assert 'scored with --iou-type segm' in by_the_tool(tmp_path, TRUTH, RESULTS)[1]
    _, err, _ = by_the_tool(tmp_path, truth, RESULTS, '--iou-type', 'segm')
    assert 'annotation number 2' in err and 'polygons need width and height' in err


def test_masks_of_another_size_are_scored_as_pycocotools_does_with_a_warning(tmp_path):
    results = copy.deepcopy(RESULTS)
    results[1]['segmentation'] = compressed(SQUARE.T)
    status, err, found = by_the_tool(tmp_path, TRUTH, results, '--iou-type', 'segm')
    assert status == 0
    assert "1 of 3 masks are not of their image's size, the first is detection number 2" in err
    reference = coco_evaluation(TRUTH, results, 'segm')
    assert found['AP'] == np.mean(reference.eval['precision'][:, :, :, 0, -1])


def test_the_tool_scores_compares_and_reports_masks(tmp_path):
    truth, results = copy.deepcopy(TRUTH), copy.deepcopy(RESULTS)
    del truth['annotations'][0]['area']
    for record in results:  # the boxes that MMDetection writes beside are not looked at
        record['bbox'] = [0, 0, 1, 1]
    (tmp_path / 'base.json').write_text(json.dumps(results[:2]))
    extra = ('--baseline', tmp_path / 'base.json', '--resamples', '20', '--report', tmp_path / 'r')
    outputs = ('--out-md', tmp_path / 'out.md', '--out-csv', tmp_path / 'out.csv', '--per-class')
    figures = []
    for backend in evaluation.BACKENDS:
        status, err, found = by_the_tool(
            tmp_path, truth, results, '--iou-type', 'segm', '--backend', backend, *extra, *outputs
        )
        assert status == 0 and 'the area of the mask stands in' in err
        figures.append({key: found[key] for key in evaluation.AP_FIGURES})
        compared = found['comparisons'][0]['figures']['AP']
        assert found['iou_type'] == 'segm' and compared['difference'] > 0
        assert 'Masks' in (tmp_path / 'r' / 'index.html').read_text()
    truth['annotations'][0]['area'] = 56
    for record in results:
        del record['bbox']
    reference = coco_evaluation(truth, results, 'segm')
    assert figures[0] == figures[1]
    assert figures[0]['AP'] == np.mean(reference.eval['precision'][:, :, :, 0, -1])


def test_errors_are_of_masks():
    # Two objects whose boxes are the same and whose masks have nothing in common.
    rows = np.add.outer(np.arange(12), np.arange(16)) % 2 == 0
    truth = copy.deepcopy(TRUTH)
    truth['annotations'] = [
        dict(id=n, image_id=1, category_id=c, segmentation=compressed(m), area=96, iscrowd=0)
        for n, c, m in ((1, 3, rows), (2, 7, ~rows))
    ]
    results = [dict(image_id=1, category_id=3, segmentation=compressed(~rows), score=0.9)]
    checked = evaluation.ground_truth_from(truth, 'truth', masks=True)
    found = evaluation.detections_from(results, checked, 'results')
    from lip_mmdet.evaluation.error_types import break_down_errors

    errors = break_down_errors(evaluation.evaluate(checked, found), checked, found)
    assert +Counter(errors.counts) == Counter(classification=1, missed=1)
