"""Lists of COCO records as checked numpy columns.

A results file has half a million records; each check is one pass over a column, and the record at
fault is searched for only when there is one.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Callable

import numpy as np

from lip_mmdet.errors import InputError

# Python floats, and so JSON numbers, tell integers apart up to here; so do both backends.
_LARGEST_ID = 2**53


class Columns:
    """A list of JSON objects read column by column.

    Args:
        records: what the JSON held where a list of objects is expected.
        source: where they come from, such as ``'results file dets.json'``; it starts the messages.
        noun: what one record is, such as ``'detection'``.

    Raises:
        InputError: ``records`` is not a list of objects.
    """

    def __init__(self, records: Any, source: str, noun: str) -> None:
        self.source = source
        self.noun = noun
        if not isinstance(records, list):
            raise InputError(f'{source}: the {noun}s are a {_kind(records)}, not a list')
        self.records = records
        if set(map(type, records)) - {dict}:
            self._fail(lambda r: not isinstance(r, dict), 'is {!r:.60}, no object', lambda r: r)

    def __len__(self) -> int:
        return len(self.records)

    def ids(self, key: str) -> np.ndarray:
        """Return an integer field as ``int64``, shape (records,)."""
        values = self._values(key)
        if set(map(type, values)) - {int}:
            self._fail(
                lambda r: type(r[key]) is not int,
                f'has {key} {{!r:.60}}; ids are whole numbers, without quotes',
                lambda r: r[key],
            )
        if values and (min(values) < 0 or max(values) > _LARGEST_ID):
            self._fail(
                lambda r: not 0 <= r[key] <= _LARGEST_ID,
                f'has {key} {{!r:.40}}, outside 0 to 2^53',
                lambda r: r[key],
            )
        return np.array(values, dtype=np.int64)

    def numbers(self, key: str) -> np.ndarray:
        """Return a finite numeric field as ``float64``, shape (records,)."""
        values = self._values(key)
        if set(map(type, values)) - {int, float}:
            self._fail(
                lambda r: type(r[key]) not in (int, float),
                f'has {key} {{!r:.60}}; a number is expected, without quotes',
                lambda r: r[key],
            )
        return self._finite(key, values)

    def boxes(self) -> np.ndarray:
        """Return ``bbox`` as finite ``float64`` [x, y, width, height], shape (records, 4).

        Raises:
            InputError: a box without four finite numbers, or with a negative width or height.
        """
        values = self._values('bbox')
        if set(map(type, values)) - {list} or set(map(len, values)) - {4}:
            self._fail(
                lambda r: not isinstance(r['bbox'], list) or len(r['bbox']) != 4,
                'has bbox {!r:.60}; four numbers [x, y, width, height] are expected',
                lambda r: r['bbox'],
            )
        if set(map(type, chain.from_iterable(values))) - {int, float}:
            self._fail(
                lambda r: any(type(v) not in (int, float) for v in r['bbox']),
                'has bbox {!r:.60}; four numbers are expected, without quotes',
                lambda r: r['bbox'],
            )
        boxes = self._finite('bbox', values).reshape(-1, 4)
        if (boxes[:, 2:] < 0).any():
            self._fail(
                lambda r: min(r['bbox'][2:]) < 0,
                'has bbox {!r:.60}, of negative size; boxes are [x, y, width, height]',
                lambda r: r['bbox'],
            )
        return boxes

    def unique(self, key: str, values: np.ndarray) -> None:
        """Raise InputError if two records share the value of ``key``."""
        found, counts = np.unique(values, return_counts=True)
        if (counts > 1).any():
            twice = found[counts > 1]
            raise InputError(
                f'{self.source}: {len(twice)} {self.noun} {key}s occur more than once, '
                f'the first is {twice[0]}'
            )

    def known(self, key: str, values: np.ndarray, known: np.ndarray, hint: str = '') -> None:
        """Raise InputError if a value of ``key`` is not among ``known``; ``hint`` ends the line."""
        at_fault = ~np.isin(values, known)
        if at_fault.any():
            unknown = np.unique(values[at_fault])
            raise InputError(
                f'{self.source}: {at_fault.sum()} of {len(self)} {self.noun}s name {len(unknown)} '
                f'unknown {key}(s), such as {_examples(unknown)}{hint}'
            )

    def _values(self, key: str) -> list:
        try:
            return [record[key] for record in self.records]
        except KeyError:
            self._fail(lambda r: key not in r, f'has no {key}; it has {{}}', _keys)

    def _finite(self, key: str, values: list) -> np.ndarray:
        try:
            column = np.array(values, dtype=np.float64)
        except OverflowError:
            raise InputError(f'{self.source}: a {key} is too large for a number') from None
        if not np.isfinite(column).all():
            self._fail(
                lambda r: not np.isfinite(r[key]).all(),
                f'has {key} {{!r:.60}}; numbers have to be finite',
                lambda r: r[key],
            )
        return column

    def _fail(
        self, at_fault: Callable[[Any], bool], complaint: str, detail: Callable[[Any], Any]
    ) -> None:
        """Name the first record at fault, and how many more there are."""
        faults = [index for index, record in enumerate(self.records) if at_fault(record)]
        first = faults[0]
        more = f' ({len(faults)} such of {len(self)})' if len(faults) > 1 else ''
        text = complaint.format(detail(self.records[first]))
        raise InputError(f'{self.source}: {self.noun} number {first + 1} {text}{more}')


def _kind(value: Any) -> str:
    return {dict: 'object', list: 'list', str: 'string', type(None): 'null'}.get(
        type(value), type(value).__name__
    )


def _keys(record: dict) -> str:
    return ', '.join(list(map(str, record))[:6]) or 'no fields'


def _examples(values: np.ndarray) -> str:
    return ', '.join(str(value) for value in values[:3])
