"""One reading of COCO's JSON files: annotations and results as columns, nothing judged yet.

Scoring (`ground_truth`, `detections`) and what MMDetection's loader makes of a file (`loader_view`)
judge the same columns, each by its own rules. msgspec reads what is plain JSON; what it refuses and
Python's `json` reads (NaN, lone surrogates) is read by `json`, into the same columns.
"""

from __future__ import annotations

import gc
import gzip
import os
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, Iterator, List, NoReturn, Sequence, Tuple, Union

import msgspec
import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.json_file import decoded, open_file, parsed, read_all, shown

# What a record has in place of a key that it lacks.
UNSET = msgspec.UNSET

_SECTIONS = {
    'images': ('image', ('id', 'file_name', 'width', 'height', 'neg_category_ids')),
    'annotations': (
        'annotation',
        ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'ignore', 'segmentation'),
    ),
    'categories': ('category', ('id', 'name')),
}
_BOX_RESULT = ('image_id', 'category_id', 'bbox', 'score')
_MASK_RESULT = ('image_id', 'category_id', 'segmentation', 'score')
# Results are decoded in parts of about this many bytes, so that few records exist at a time.
_PART = 2**20
# The last place in a part where one record ends and another begins.
_CUT = re.compile(rb'.*\}(?=([ \t\r\n]*,[ \t\r\n]*)\{)', re.DOTALL)
_BROKEN_GZIP = (OSError, EOFError, zlib.error)
_FALSE_JSON = {b'null', b'false', b'0', b'""', b'[]', b'{}'}


def _decoder(sections: Sequence[str], masks: bool = False) -> msgspec.json.Decoder:
    """Return what decodes these sections of an annotation file, none of which needs be there."""
    members = []
    for section in sections:
        noun, fields = _SECTIONS[section]
        # Without masks a segmentation is only asked whether it is there, so it is not decoded.
        kinds = {field: Any for field in fields}
        if not masks and 'segmentation' in fields:
            kinds['segmentation'] = msgspec.Raw
        record = msgspec.defstruct(noun, [(*kind, UNSET) for kind in kinds.items()], gc=False)
        members.append((section, Union[List[record], msgspec.UnsetType], UNSET))
    return msgspec.json.Decoder(msgspec.defstruct('Dataset', members))


_DATASET = {masks: _decoder(tuple(_SECTIONS), masks) for masks in (False, True)}
_CATEGORIES = _decoder(['categories'])
# What msgspec does not find to be of these types is read by `json`.
_KINDS = dict(
    image_id=int,
    category_id=int,
    bbox=Tuple[float, float, float, float],
    segmentation=Any,
    score=float,
)
_ARRAYS = dict(image_id=np.int64, category_id=np.int64, bbox=np.float64, score=np.float64)
_PLAIN_RESULTS = {
    fields: msgspec.json.Decoder(
        List[msgspec.defstruct('result', [(f, _KINDS[f]) for f in fields], gc=False)]
    )
    for fields in (_BOX_RESULT, _MASK_RESULT)
}


@dataclass(frozen=True)
class Records:
    """A list of JSON objects as columns of the values that the file has.

    Attributes:
        noun: what one record is, such as ``'annotation'``.
        source: where they come from; it starts the messages.
        columns: key to values, :data:`UNSET` where a record lacks the key; or to an array, where
            all records are plain.
    """

    noun: str
    source: str
    columns: dict[str, list | np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: str) -> list | np.ndarray:
        return self.columns[key]

    def rows(
        self, key: str, at_fault: Callable[[Any], bool], rows: Sequence[int] | None = None
    ) -> list[int]:
        """Return the positions, of all or of ``rows``, whose ``key`` satisfies ``at_fault``."""
        values = self.columns[key]
        return [r for r in (range(len(self)) if rows is None else rows) if at_fault(values[r])]

    def refuse(
        self,
        key: str,
        at_fault: Callable[[Any], bool],
        complaint: str,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Call :meth:`fail` for the positions that :meth:`rows` returns, if there are any."""
        odd = self.rows(key, at_fault, rows)
        if odd:
            self.fail(odd, key, complaint)

    def fail(self, rows: Sequence[int], key: str, complaint: str) -> NoReturn:
        """Raise InputError for ``key`` of these records: the first, how many, and what to do."""
        raise InputError(f'{self.source}: {self.fault(rows, key)}; {complaint}')

    def fault(self, rows: Sequence[int], key: str) -> str:
        """Describe the first of the records at fault and how many there are."""
        value = self.columns[key][rows[0]]
        said = f'has no {key}' if value is UNSET else f'has {key} {shown(value)}'
        count = f' ({len(rows)} such of {len(self)})' if len(rows) > 1 else ''
        return f'{self.noun} number {rows[0] + 1} {said}{count}'


@dataclass(frozen=True)
class CocoFile:
    """What a COCO annotation file holds.

    Attributes:
        source: how messages name the file.
        images, annotations, categories: its sections, None where it lacks one.
        packing: ``''`` for plain UTF-8, else what `json` in other tools stumbles over, such as
            ``'utf-8-sig'`` (a byte order mark), ``'utf-16'`` or ``'gzip'``.
    """

    source: str
    images: Records | None
    annotations: Records | None
    categories: Records | None
    packing: str = ''

    @property
    def objects(self) -> Records:
        """The annotations; none where the file lacks the section."""
        none = Records('annotation', self.source, {key: [] for key in _SECTIONS['annotations'][1]})
        return self.annotations or none


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic collector while millions of objects are made, none of them garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_coco(
    path: str | os.PathLike, role: str = 'annotation file', masks: bool = False
) -> CocoFile:
    """Read a COCO annotation file.

    Args:
        path: the file.
        role: what messages call it.
        masks: keep each ``segmentation``, of which else is kept whether there is one.

    Raises:
        InputError: the file cannot be read, is not JSON in a known encoding, or a section is not a
            list of objects.
    """
    source = f'{role} {path}'
    with open_file(path, source) as stream:
        content, packing = decoded(read_all(stream, source), source)
    with collector_paused():
        try:
            dataset = _DATASET[masks].decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return coco_from(parsed(content, source), source, packing, masks)
        sections = {n: _from_structs(getattr(dataset, n), source, n) for n in _SECTIONS}
        return _coco(source, sections, packing, masks)


def read_categories(path: str | os.PathLike) -> Records | None:
    """Read the categories of an annotation file alone; None where they cannot be read."""
    try:
        with open_file(path, str(path)) as stream:
            content, _ = decoded(read_all(stream, str(path)), str(path))
        names = _CATEGORIES.decode(content).categories
    except (InputError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return _from_structs(names, str(path), 'categories')


def coco_from(dataset: Any, source: str, packing: str = '', masks: bool = False) -> CocoFile:
    """Return the columns of a parsed annotation file; see :func:`read_coco`."""
    if isinstance(dataset, list):
        raise InputError(
            f'{source} holds a list, as results do; a COCO annotation file is an object with '
            'images, annotations and categories (were the two files swapped?)'
        )
    if not isinstance(dataset, dict):
        raise InputError(f'{source} is not a COCO annotation file: it holds no object')
    sections = {
        name: _from_dicts(dataset[name], source, noun, fields) if name in dataset else None
        for name, (noun, fields) in _SECTIONS.items()
    }
    return _coco(source, sections, packing, masks)


def _coco(source: str, sections: dict[str, Records | None], packing: str, masks: bool) -> CocoFile:
    objects = sections['annotations']
    if objects is not None and not masks:
        objects.columns['segmentation'] = [_is_there(v) for v in objects['segmentation']]
    return CocoFile(source, **sections, packing=packing)


def _is_there(value: Any) -> bool:
    if isinstance(value, msgspec.Raw):
        return bytes(value) not in _FALSE_JSON
    return value is not UNSET and bool(value)


def read_results(
    path: str | os.PathLike, role: str = 'results file', masks: bool = False
) -> Records:
    """Read a COCO results file as columns ``image_id``, ``category_id``, ``bbox``, ``score``.

    With masks there is ``segmentation`` instead of ``bbox``.

    Raises:
        InputError: as :func:`read_coco`.
    """
    source, fields = f'{role} {path}', _MASK_RESULT if masks else _BOX_RESULT
    with open_file(path, source) as stream, collector_paused():
        try:
            parts = [_columns(part, fields) for part in _parts(stream, _PLAIN_RESULTS[fields])]
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, *_BROKEN_GZIP):
            content, _ = decoded(read_all(stream, source), source)
            return results_from(parsed(content, source), source, masks)
    columns = {f: np.concatenate([part[f] for part in parts]) for f in fields if f in _ARRAYS}
    if masks:
        columns['segmentation'] = [value for part in parts for value in part['segmentation']]
    return Records('detection', source, columns)


def results_from(records: Any, source: str, masks: bool = False) -> Records:
    """Return the columns of parsed results; see :func:`read_results`."""
    if isinstance(records, dict):
        kind = 'an annotation file' if 'annotations' in records else 'an object'
        raise InputError(
            f'{source} holds {kind}; results are a list of objects with image_id, category_id, '
            'bbox and score'
        )
    return _from_dicts(records, source, 'detection', _MASK_RESULT if masks else _BOX_RESULT)


def _parts(stream: BinaryIO, decoder: msgspec.json.Decoder) -> Iterator[list]:
    """Decode a list of results part by part, each cut where a record seems to end.

    A part that was cut inside a string or a nested object is no list, so it is read with the next.
    """
    packed = stream.read(2) == b'\x1f\x8b'
    stream.seek(0)
    stream = gzip.GzipFile(fileobj=stream) if packed else stream
    text, more = b'', True
    while more:
        read = stream.read(max(_PART, len(text)))  # twice as much of what had no end
        more = bool(read)
        text += read
        cut = _CUT.match(text) if more else None
        if more and not cut:
            continue
        part = text[: cut.end()] + b']' if cut else text
        try:
            records = decoder.decode(part)
        except msgspec.DecodeError as error:
            if more and not isinstance(error, msgspec.ValidationError):
                continue
            raise
        part.decode()  # msgspec does not look at strings that it skips
        yield records
        text = b'[' + text[cut.end(1) :] if cut else b''


def _columns(records: list, fields: Sequence[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {key: [getattr(r, key) for r in records] for key in fields}
    for key in columns.keys() & _ARRAYS:
        columns[key] = np.array(columns[key], dtype=_ARRAYS[key])
    if 'bbox' in columns:
        columns['bbox'] = columns['bbox'].reshape(-1, 4)  # of no records too
    return columns


def _from_structs(records: list, source: str, section: str) -> Records | None:
    if records is UNSET:
        return None
    noun, fields = _SECTIONS[section]
    return Records(noun, source, {key: [getattr(r, key) for r in records] for key in fields})


def _from_dicts(records: Any, source: str, noun: str, fields: Sequence[str]) -> Records:
    if not isinstance(records, list):
        name = 'categories' if noun == 'category' else f'{noun}s'
        raise InputError(f'{source}: the {name} are {shown(records)}, not a list')
    strange = [row for row, record in enumerate(records) if not isinstance(record, dict)]
    if strange:
        count = f' ({len(strange)} such of {len(records)})' if len(strange) > 1 else ''
        raise InputError(
            f'{source}: {noun} number {strange[0] + 1} is {shown(records[strange[0]])}, no object'
            f'{count}'
        )
    return Records(noun, source, {key: [r.get(key, UNSET) for r in records] for key in fields})
