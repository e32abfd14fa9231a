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
        plain: whether the numbers are the file's own.

    Raises:
        InputError: an id is missing, is a list or an object, or ids cannot be sorted.
    """

    def __init__(self, records: Records) -> None:
        labels = _hashable(records, 'id')
        self.plain = all(type(label) is int and abs(label) < _LARGEST for label in labels)
        if self.plain:
            self.values = np.array(labels, dtype=np.int64)
        else:
            try:
                self._numbers = {label: n for n, label in enumerate(sorted(set(labels)), start=1)}
            except TypeError:
                kind = type(labels[0])
                odd = records.rows('id', lambda value: type(plain(value)) is not kind)
                records.fail(odd, 'id', 'give all of them ids of one kind, whole numbers at best')
            self.values = np.array([self._numbers[label] for label in labels], dtype=np.int64)
        self.known = np.unique(self.values)

    def of(self, records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the ids that other records name, and which of them are known."""
        return self.of_labels(_hashable(records, key))

    def of_labels(self, labels: list | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of ids, and which of them are known."""
        if not self.plain:
            numbers = np.array([self._numbers.get(label, 0) for label in labels], dtype=np.int64)
            return numbers, numbers > 0
        whole = isinstance(labels, np.ndarray) or set(map(type, labels)) <= {int}
        # No id that is listed is 2^62, so it stands for what is no whole number.
        labels = labels if whole else [v if type(v) is int else _LARGEST for v in labels]
        try:
            numbers = np.array(labels, dtype=np.int64)
        except OverflowError:
            numbers = np.array([v if abs(v) < _LARGEST else _LARGEST for v in labels])
        return numbers, np.isin(numbers, self.known)


def plain(value: Any) -> Any:
    """Return the whole number that an id equals in Python, else the id itself."""
    if (type(value) is float and value.is_integer()) or type(value) is bool:
        return int(value)
    return value


def _hashable(records: Records, key: str) -> list | np.ndarray:
    values = records[key]
    if isinstance(values, np.ndarray) or set(map(type, values)) <= {int}:
        return values
    nested = records.rows(
        key,
        lambda v: (
            v is UNSET or isinstance(v, (list, dict)) or (v != v and key == 'id')
        ),  # NaN equals nothing
    )
    if nested:
        records.fail(nested, key, 'ids are whole numbers or strings')
    return [plain(value) for value in values]
