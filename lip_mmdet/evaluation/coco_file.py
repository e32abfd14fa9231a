"""One reading of COCO's JSON files: annotations and results as columns, nothing judged yet.

Scoring (`ground_truth`, `detections`) and what MMDetection's loader makes of a file (`loader_view`)
judge the same columns, each by its own rules. msgspec reads what is plain JSON; what it refuses and
Python's `json` reads (NaN, lone surrogates) is read by `json`, into the same columns.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Iterator, List, NoReturn, Sequence, Tuple, Union

import msgspec
import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.collector import collector_paused
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
_RESULT = ('image_id', 'category_id', 'bbox', 'score')
# Results are decoded in parts of about this many bytes, so that few records exist at a time.
_PART = 2**20
# The last place in a part where one record ends and another begins.
_CUT = re.compile(rb'.*\}(?=([ \t\r\n]*,[ \t\r\n]*)\{)', re.DOTALL)
_BROKEN_GZIP = (OSError, EOFError, zlib.error)
_FALSE_JSON = {b'null', b'false', b'0', b'""', b'[]', b'{}'}


def _struct(name: str, fields: Sequence[str]) -> type:
    # A segmentation is only asked whether it is there, so it is not decoded.
    kinds = [(f, msgspec.Raw if f == 'segmentation' else Any, UNSET) for f in fields]
    return msgspec.defstruct(name, kinds, gc=False)


def _optional(kind: Any) -> Any:
    return Union[kind, msgspec.UnsetType]


_DATASET = msgspec.json.Decoder(
    msgspec.defstruct(
        'Dataset',
        [(s, _optional(List[_struct(s, fields)]), UNSET) for s, (_, fields) in _SECTIONS.items()],
    )
)
_CATEGORIES = msgspec.json.Decoder(
    msgspec.defstruct(
        'Names', [('categories', _optional(List[_struct('category', ('id', 'name'))]), UNSET)]
    )
)
# What msgspec does not find to be of these types is read by `json`.
_PLAIN_RESULTS = msgspec.json.Decoder(
    List[
        msgspec.defstruct(
            'result',
            zip(_RESULT, (int, int, Tuple[float, float, float, float], float)),
            gc=False,
        )
    ]
)


class Records:
    """A list of JSON objects as columns of the values that the file has.

    Args:
        noun: what one record is, such as ``'annotation'``.
        source: where they come from; it starts the messages.
        columns: key to values, :data:`UNSET` where a record lacks the key; or to an array, where
            all records are plain.
    """

    def __init__(self, noun: str, source: str, columns: dict[str, list | np.ndarray]) -> None:
        self.noun = noun
        self.source = source
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: str) -> list | np.ndarray:
        return self.columns[key]

    def rows(self, key: str, at_fault: Any) -> list[int]:
        """Return the positions whose value of ``key`` satisfies ``at_fault``."""
        return [row for row, value in enumerate(self.columns[key]) if at_fault(value)]

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


def read_coco(path: str | os.PathLike, role: str = 'annotation file') -> CocoFile:
    """Read a COCO annotation file.

    Raises:
        InputError: the file cannot be read, is not JSON in a known encoding, or a section is not a
            list of objects.
    """
    source = f'{role} {path}'
    with open_file(path, source) as stream:
        content, packing = decoded(read_all(stream, source), source)
    with collector_paused():
        try:
            dataset = _DATASET.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return coco_from(parsed(content, source), source, packing)
        sections = {
            name: getattr(dataset, name) if getattr(dataset, name) is UNSET else
            _from_structs(getattr(dataset, name), noun, source, fields)
            for name, (noun, fields) in _SECTIONS.items()
        }  # fmt: skip
    return CocoFile(
        source, **{k: None if v is UNSET else v for k, v in sections.items()}, packing=packing
    )


def read_categories(path: str | os.PathLike) -> Records | None:
    """Read the categories of an annotation file alone; None where they cannot be read."""
    try:
        with open_file(path, str(path)) as stream:
            content, _ = decoded(read_all(stream, str(path)), str(path))
        names = _CATEGORIES.decode(content).categories
    except (InputError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if names is UNSET else _from_structs(names, 'category', str(path), ('id', 'name'))


def coco_from(dataset: Any, source: str, packing: str = '') -> CocoFile:
    """Return the columns of a parsed annotation file; see :func:`read_coco`."""
    if isinstance(dataset, list):
        raise InputError(
            f'{source} holds a list, as results do; a COCO annotation file is an object with '
            'images, annotations and categories (were the two files swapped?)'
        )
    if not isinstance(dataset, dict):
        raise InputError(f'{source} is not a COCO annotation file: it holds no object')
    sections = {
        name: _from_dicts(dataset[name], noun, source, fields) if name in dataset else None
        for name, (noun, fields) in _SECTIONS.items()
    }
    return CocoFile(source, **sections, packing=packing)


def read_results(path: str | os.PathLike, role: str = 'results file') -> Records:
    """Read a COCO results file as columns ``image_id``, ``category_id``, ``bbox``, ``score``.

    Raises:
        InputError: as :func:`read_coco`.
    """
    source = f'{role} {path}'
    with open_file(path, source) as stream, collector_paused():
        try:
            columns = [np.concatenate(parts) for parts in zip(*map(_columns, _parts(stream)))]
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, *_BROKEN_GZIP):
            content, _ = decoded(read_all(stream, source), source)
            return results_from(parsed(content, source), source)
    return Records('detection', source, dict(zip(_RESULT, columns)))


def results_from(records: Any, source: str) -> Records:
    """Return the columns of parsed results; see :func:`read_results`."""
    if isinstance(records, dict):
        kind = 'an annotation file' if 'annotations' in records else 'an object'
        raise InputError(
            f'{source} holds {kind}; results are a list of objects with image_id, category_id, '
            'bbox and score'
        )
    return _from_dicts(records, 'detection', source, _RESULT)


def as_floats(values: list) -> np.ndarray:
    """Return numbers as float64; an integer too large for one is infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([_as_float(value) for value in values], dtype=np.float64)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float('inf') if value > 0 else float('-inf')


def _parts(stream: BinaryIO) -> Iterator[list]:
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
            records = _PLAIN_RESULTS.decode(part)
        except msgspec.DecodeError as error:
            if more and not isinstance(error, msgspec.ValidationError):
                continue
            raise
        part.decode()  # msgspec does not look at strings that it skips
        yield records
        text = b'[' + text[cut.end(1) :] if cut else b''


def _columns(records: list) -> tuple[np.ndarray, ...]:
    image = np.array([record.image_id for record in records], dtype=np.int64)
    category = np.array([record.category_id for record in records], dtype=np.int64)
    numbers = chain.from_iterable(record.bbox for record in records)
    boxes = np.fromiter(numbers, np.float64, 4 * len(records)).reshape(-1, 4)
    return image, category, boxes, np.array([record.score for record in records], dtype=np.float64)


def _from_structs(records: list, noun: str, source: str, fields: Sequence[str]) -> Records:
    columns = {key: [getattr(record, key) for record in records] for key in fields}
    if 'segmentation' in columns:
        columns['segmentation'] = [
            raw is not UNSET and bytes(raw) not in _FALSE_JSON for raw in columns['segmentation']
        ]
    return Records(noun, source, columns)


def _from_dicts(records: Any, noun: str, source: str, fields: Sequence[str]) -> Records:
    if not isinstance(records, list):
        name = {v[0]: k for k, v in _SECTIONS.items()}.get(noun, f'{noun}s')
        raise InputError(f'{source}: the {name} are {shown(records)}, not a list')
    strange = [row for row, record in enumerate(records) if not isinstance(record, dict)]
    if strange:
        count = f' ({len(strange)} such of {len(records)})' if len(strange) > 1 else ''
        raise InputError(
            f'{source}: {noun} number {strange[0] + 1} is {shown(records[strange[0]])}, no object'
            f'{count}'
        )
    columns = {key: [record.get(key, UNSET) for record in records] for key in fields}
    if 'segmentation' in columns:
        columns['segmentation'] = [
            bool(value) and value is not UNSET for value in columns['segmentation']
        ]
    return Records(noun, source, columns)
