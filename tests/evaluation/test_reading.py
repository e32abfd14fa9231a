"""Results are read in parts, and say what Python's `json` says of the whole."""

import gzip
import json

import numpy as np
import pytest

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation import coco_file

RESULT = dict(image_id=1, category_id=2, bbox=[1, 2.5, 3, 1e-7], score=0.5)
MASK = dict(size=[3, 4], counts='5}, {2')
TEXTS = {
    'plain': json.dumps([RESULT] * 9),
    'indented': json.dumps([RESULT] * 9, indent=2),
    'without spaces': json.dumps([RESULT] * 9, separators=(',', ':')),
    'none': ' [ ] ',
    'what looks like a record in a string': json.dumps([dict(RESULT, name='}, {"a": [')] * 9),
    'objects in lists in records': json.dumps([dict(RESULT, parts=[{}, {'a': [{}, {}]}])] * 9),
    'masks': json.dumps([dict(RESULT, segmentation=MASK)] * 9),
    'large and negative numbers': json.dumps(
        [dict(RESULT, image_id=-(2**62), bbox=[2**53 + 1, -0.0, 1e300, 0])] * 3
    ),
    'an id past 64 bits': json.dumps([RESULT] * 8 + [dict(RESULT, image_id=2**64)]),
    'an id as a float': json.dumps([RESULT] * 8 + [dict(RESULT, image_id=1.0)]),
    'true for an id': json.dumps([RESULT] * 8 + [dict(RESULT, category_id=True)]),
    'NaN': json.dumps([RESULT] * 8 + [dict(RESULT, score=float('nan'))]),
    'no score in the last': json.dumps([RESULT, {k: RESULT[k] for k in list(RESULT)[:3]}]),
    'a lone surrogate': json.dumps([RESULT] * 8 + [dict(RESULT, name='\ud800')]),
}  # fmt: skip
BROKEN = {
    'cut off': TEXTS['plain'][:-9],
    'cut off between records': TEXTS['plain'][: TEXTS['plain'].rindex(',') - 70],
    'a comma too many': TEXTS['plain'][:-1] + ',]',
    'something after the end': TEXTS['plain'] + ' {}',
    'two commas between records': TEXTS['plain'].replace('}, {', '},, {'),
    'no white space of JSON': TEXTS['plain'].replace('}, {', '},\x0c{'),
    'two lists': TEXTS['plain'] * 2,
}


@pytest.fixture(params=[1, 40, 200, 2**20])
def part(request, monkeypatch):
    monkeypatch.setattr(coco_file, '_PART', request.param)


@pytest.mark.usefixtures('part')
@pytest.mark.parametrize('name', TEXTS)
def test_parts_say_what_the_whole_does(tmp_path, name):
    path = tmp_path / 'results.json'
    path.write_text(TEXTS[name])
    (tmp_path / 'packed.json.gz').write_bytes(gzip.compress(TEXTS[name].encode()))
    expected = coco_file.results_from(json.loads(TEXTS[name]), '')
    for file in (path, tmp_path / 'packed.json.gz'):
        found = coco_file.read_results(file)
        for key, column in expected.columns.items():
            if isinstance(found[key], np.ndarray):
                column = np.array(column, dtype=found[key].dtype).reshape(found[key].shape)
            assert repr(found[key]) == repr(column), key


@pytest.mark.usefixtures('part')
@pytest.mark.parametrize('name', BROKEN)
def test_no_part_hides_that_the_whole_is_broken(tmp_path, name):
    path = tmp_path / 'results.json'
    path.write_text(BROKEN[name])
    with pytest.raises(InputError, match='not valid JSON'):
        coco_file.read_results(path)
    path.write_bytes(TEXTS['plain'].replace('"score"', '"n": "é", "score"').encode('latin-1'))
    with pytest.raises(InputError, match='Latin-1'):
        coco_file.read_results(path)
    path.write_bytes(gzip.compress(TEXTS['plain'].encode())[:-9])
    with pytest.raises(InputError, match='not a whole gzip'):
        coco_file.read_results(path)
