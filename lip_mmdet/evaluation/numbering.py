"""Ids of a file as whole numbers, whatever the file has for ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from lip_mmdet.evaluation.coco_file import UNSET, Records

_LARGEST = 2**62


class Numbering:
    """Whole numbers for the ids of images or categories.

    Whole ids stay as they are, 1.0 is 1, as it is for every Python program. Others, such as
    strings, are numbered from 1 in sorted order.

    Args:
        records: those that carry the ids; a missing, null-like or nested id is refused.

    Attributes:
        values: the number of each record, shape (records,).
        known: the sorted numbers, each once.
        labels: the ids that these stand for.
        plain: whether the numbers are the file's own.

    Raises:
        InputError: an id is missing, is a list or an object, or ids cannot be sorted.
    """

    def __init__(self, records: Records) -> None:
        labels = _hashable(records, 'id')
        try:
            self.labels = sorted(set(labels))
        except TypeError:
            kind = type(labels[0])
            advice = 'give all of them ids of one kind, whole numbers at best'
            odd = records.rows('id', lambda value: type(plain(value)) is not kind)
            records.fail(odd, 'id', advice)
        self.plain = all(type(label) is int and abs(label) < _LARGEST for label in self.labels)
        if not self.plain:
            self._numbers = {label: number for number, label in enumerate(self.labels, start=1)}
            labels = [self._numbers[label] for label in labels]
        self.values = np.array(labels, dtype=np.int64)
        self.known = np.unique(self.values)

    def of(self, records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the ids that other records name, and which of them are known."""
        return self.of_labels(_hashable(records, key))

    def of_labels(self, labels: list | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of ids, and which of them are known."""
        if not self.plain:
            numbers = np.array([self._numbers.get(label, 0) for label in labels], dtype=np.int64)
            return numbers, numbers > 0
        if not isinstance(labels, np.ndarray):
            # No id that is listed is 2^62, so it stands for what is no such number.
            whole = (type(label) is int and abs(label) < _LARGEST for label in labels)
            labels = [label if is_whole else _LARGEST for label, is_whole in zip(labels, whole)]
        numbers = np.array(labels, dtype=np.int64)
        return numbers, np.isin(numbers, self.known)


def plain(value: Any) -> Any:
    """Return the whole number that an id equals in Python, else the id itself."""
    if (type(value) is float and value.is_integer()) or type(value) is bool:
        return int(value)
    return value


def _hashable(records: Records, key: str) -> list | np.ndarray:
    values = records[key]
    if isinstance(values, np.ndarray) or set(map(type, values)) <= {int}:  # as most files have
        return values
    # NaN equals nothing.
    records.refuse(
        key,
        lambda v: is_no_id(v) or (key == 'id' and v != v),
        'ids are whole numbers or strings',
    )
    return [plain(value) for value in values]


def is_no_id(value: Any) -> bool:
    """Return whether a value is missing or nested, and so cannot be an id."""
    return value is UNSET or isinstance(value, (list, dict))
