"""One reading of COCO's JSON files: annotations and results as columns, nothing judged yet.

Scoring (`ground_truth`, `detections`) and what MMDetection's loader makes of a file (`loader_view`)
judge the same columns, each by its own rules. msgspec reads what is plain JSON; what it refuses and
Python's `json` reads (NaN, lone surrogates) is read by `json`, into the same columns.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, NoReturn, Sequence, Union

import msgspec
import numpy as np

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.collector import collector_paused

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
_PART = 4 * 2**20
_FALSE_JSON = {b'null', b'false', b'0', b'""', b'[]', b'{}'}
# What people hand over instead of JSON, by the first bytes.
_FOREIGN = (
    (b'PK\x03\x04', 'it is a zip archive; unpack it first'),
    (b'\x80', 'it looks like a pickle, such as MMDetection writes with --out; score COCO JSON'),
    (b'\x89PNG', 'it is a picture'),
    (b'\xff\xd8\xff', 'it is a picture'),
)


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
_RESULTS = msgspec.json.Decoder(List[_struct('result', _RESULT)])


class Records:
    """A list of JSON objects as columns of the values that the file has.

    Args:
        noun: what one record is, such as ``'annotation'``.
        source: where they come from; it starts the messages.
        columns: key to values, :data:`UNSET` where a record lacks the key.
    """

    def __init__(self, noun: str, source: str, columns: dict[str, list]) -> None:
        self.noun = noun
        self.source = source
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: str) -> list:
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
    content, packing = _text(_bytes(path, source), source)
    with collector_paused():
        try:
            dataset = _DATASET.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return coco_from(_parsed(content, source), source, packing)
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
        content, _ = _text(_bytes(path, str(path)), str(path))
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
    content, _ = _text(_bytes(path, source), source)
    columns = {key: [] for key in _RESULT}
    with collector_paused():
        try:
            for part in _parts(content):
                for key, column in columns.items():
                    column.extend([getattr(record, key) for record in part])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return results_from(_parsed(content, source), source)
    return Records('detection', source, columns)


def results_from(records: Any, source: str) -> Records:
    """Return the columns of parsed results; see :func:`read_results`."""
    if isinstance(records, dict):
        kind = 'an annotation file' if 'annotations' in records else 'an object'
        raise InputError(
            f'{source} holds {kind}; results are a list of objects with image_id, category_id, '
            'bbox and score'
        )
    return _from_dicts(records, 'detection', source, _RESULT)


def read_json(path: str | os.PathLike, role: str) -> Any:
    """Return the content of a JSON file as `json` gives it; messages start with ``role``.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, not JSON or too large to hold
            in memory.
    """
    source = f'{role} {path}'
    return parse_json(_bytes(path, source), source)


def parse_json(content: bytes, source: str) -> Any:
    """Return the content of JSON text; ``source`` starts the messages. See :func:`read_json`."""
    with collector_paused():
        return _parsed(_text(content, source)[0], source)


def shown(value: Any) -> str:
    """Write a value of a file as JSON, shortened, for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(type(value).__name__)
    text = clean(text)
    return text if len(text) <= 60 else text[:57] + '...'


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


def clean(text: str) -> str:
    """Return text that any UTF-8 file can hold: lone surrogates become U+FFFD."""
    if text.isascii():
        return text
    return text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')


def _bytes(path: str | os.PathLike, source: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f'{source} does not exist; check the path') from None
    except IsADirectoryError:
        raise InputError(f'{source} is a folder; name a JSON file') from None
    except (OSError, ValueError) as error:  # a null character in the name is a ValueError
        why = getattr(error, 'strerror', None) or error
        raise InputError(f'{source} cannot be read: {why}') from None
    except MemoryError:
        raise InputError(f'{source} does not fit in memory') from None


def _text(content: bytes, source: str) -> tuple[bytes, str]:
    """Return JSON text as UTF-8 without a byte order mark, and how it was packed.

    Raises:
        InputError: empty, another kind of file, or of an encoding that does not tell itself.
    """
    packing = ''
    if content.startswith(b'\x1f\x8b'):
        try:
            content, packing = gzip.decompress(content), 'gzip'
        except (OSError, EOFError, zlib.error):
            raise InputError(f'{source} is not a whole gzip file; fetch it again') from None
    if not content.strip():
        raise InputError(f'{source} is empty')
    for magic, explanation in _FOREIGN:
        if content.startswith(magic):
            raise InputError(f'{source} is not JSON: {explanation}')
    encoding = json.detect_encoding(content[:16])
    if encoding == 'utf-8-sig':
        content, packing = content[len(codecs.BOM_UTF8) :], packing or encoding
    elif encoding != 'utf-8':
        try:
            content, packing = content.decode(encoding).encode(), packing or encoding
        except UnicodeError:
            raise InputError(
                f'{source} is not JSON: its first bytes look like {encoding.upper()}, the rest '
                'does not'
            ) from None
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(content, error, source) from None
    return content, packing


def _not_utf8(content: bytes, error: UnicodeDecodeError, source: str) -> InputError:
    high = re.findall(rb'[\x80-\xff]+', content)
    if re.search(rb'[\x00-\x08\x0e-\x1f]', content[:10_000]):
        return InputError(f'{source} is not JSON: it is not a text file')
    # Two-byte encodings have their letters in pairs; European ones mostly have single letters.
    pairs = sum(len(run) % 2 == 0 for run in high) > len(high) / 2
    guess, name = ('GBK', 'GB18030') if pairs else ('Latin-1 (Windows-1252)', 'WINDOWS-1252')
    line = content.count(b'\n', 0, error.start) + 1
    return InputError(
        f'{source} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}, line '
        f'{line}; it looks like {guess}. Save it again as UTF-8, for instance with '
        f'iconv -f {name} -t UTF-8 OLD.json > NEW.json'
    )


def _parsed(content: bytes, source: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        truncated = error.pos >= len(error.doc.rstrip()) - 1 or 'Unterminated' in error.msg
        reason = 'it ends in the middle, so it is probably truncated' if truncated else error.msg
        raise InputError(
            f'{source} is not valid JSON, line {error.lineno} column {error.colno}: {reason}'
        ) from None
    except RecursionError:
        raise InputError(f'{source} is nested too deeply to be a COCO file') from None
    except MemoryError:
        raise InputError(f'{source} does not fit in memory') from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f'{source} cannot be parsed: {error}') from None


def _parts(content: bytes) -> Iterator[list]:
    """Decode a list of results part by part, each cut where a record ends.

    A cut at ``},`` inside a string or a nested object leaves text that is no list, so that decoding
    fails; then the whole is decoded at once.
    """
    start, end = content.find(b'[') + 1, content.rfind(b']')
    if len(content) <= _PART or content[: start - 1].strip() or content[end + 1 :].strip():
        yield _RESULTS.decode(content)
        return
    cut = re.compile(rb'\}\s*,')
    view = memoryview(content)
    while start < end:
        found = cut.search(content, start + _PART, end)
        stop = found.start() + 1 if found else end
        yield _RESULTS.decode(b'[%b]' % view[start:stop])
        start = found.end() if found else end


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
