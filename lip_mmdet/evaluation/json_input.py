"""Reading a user's JSON: whatever is wrong with the file becomes one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lip_mmdet.errors import InputError
from lip_mmdet.evaluation.collector import collector_paused

# What people hand over instead of JSON, by the first bytes.
_FOREIGN = (
    (b'\x1f\x8b', 'it is gzip-compressed; unpack it first'),
    (b'PK\x03\x04', 'it is a zip archive; unpack it first'),
    (b'\x80', 'it looks like a pickle, such as MMDetection writes with --out; score COCO JSON'),
)


def read_json(path: str | os.PathLike, role: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        role: what the file is to the user, such as ``'annotation file'``; it starts the messages.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, not JSON or too large to hold
            in memory.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f'{role} {path} does not exist; check the path') from None
    except IsADirectoryError:
        raise InputError(f'{role} {path} is a folder; name a JSON file') from None
    except OSError as error:
        raise InputError(f'{role} {path} cannot be read: {error.strerror}') from None
    except MemoryError:
        raise InputError(f'{role} {path} does not fit in memory') from None
    return parse_json(content, f'{role} {path}')


def parse_json(content: bytes, source: str) -> Any:
    """Return the content of JSON text; ``source`` starts the messages. See :func:`read_json`."""
    if not content.strip():
        raise InputError(f'{source} is empty')
    for magic, explanation in _FOREIGN:
        if content.startswith(magic):
            raise InputError(f'{source} is not JSON: {explanation}')
    try:
        with collector_paused():
            return json.loads(content)
    except json.JSONDecodeError as error:
        truncated = error.pos >= len(error.doc.rstrip()) - 1 or 'Unterminated' in error.msg
        reason = 'it ends in the middle, so it is probably truncated' if truncated else error.msg
        raise InputError(
            f'{source} is not valid JSON, line {error.lineno} column {error.colno}: {reason}'
        ) from None
    except UnicodeDecodeError:
        raise InputError(f'{source} is not JSON: it is not a text file') from None
    except RecursionError:
        raise InputError(f'{source} is nested too deeply to be a COCO file') from None
    except MemoryError:
        raise InputError(f'{source} does not fit in memory') from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f'{source} cannot be parsed: {error}') from None
