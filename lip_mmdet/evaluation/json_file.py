"""JSON text from disk: opened, unpacked, decoded, and what is wrong with it in one line."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import re
import zlib
from typing import Any, BinaryIO

from lip_mmdet.errors import InputError

# What people hand over instead of JSON, by the first bytes.
_FOREIGN = (
    (b'PK\x03\x04', 'it is a zip archive; unpack it first'),
    (b'\x80', 'it looks like a pickle, such as MMDetection writes with --out; score COCO JSON'),
    (b'<', 'it is HTML or XML; fetch the file itself, or convert it to COCO JSON'),
    (b'version https://git-lfs', 'it is a pointer of Git LFS; git lfs pull fetches the file'),
    (b'\x89PNG', 'it is a picture'),
    (b'\xff\xd8\xff', 'it is a picture'),
)


def read_json(path: str | os.PathLike, role: str) -> Any:
    """Return the content of a JSON file as `json` gives it; messages start with ``role``.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, not JSON or too large to hold
            in memory.
    """
    source = f'{role} {path}'
    with open_file(path, source) as stream:
        return parse_json(read_all(stream, source), source)


def parse_json(content: bytes, source: str) -> Any:
    """Return the content of JSON text; ``source`` starts the messages. See :func:`read_json`."""
    return parsed(decoded(content, source)[0], source)


def shown(value: Any) -> str:
    """Write a value of a file, or of an array, as JSON, shortened, for a message."""
    try:
        text = json.dumps(getattr(value, 'tolist', lambda: value)(), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(type(value).__name__)
    text = clean(text)
    return text if len(text) <= 60 else text[:57] + '...'


def clean(text: str) -> str:
    """Return text that any UTF-8 file can hold: lone surrogates become U+FFFD."""
    if text.isascii():
        return text
    return text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')


def open_file(path: str | os.PathLike, source: str) -> BinaryIO:
    """Open a file so that it can be read from its start more than once, even a pipe."""
    try:
        stream = open(path, 'rb')  # noqa: SIM115
        return stream if stream.seekable() else io.BytesIO(stream.read())
    except FileNotFoundError:
        raise InputError(f'{source} does not exist; check the path') from None
    except IsADirectoryError:
        raise InputError(f'{source} is a folder; name a JSON file') from None
    except (OSError, ValueError) as error:  # a null character in the name is a ValueError
        raise _unreadable(source, error) from None


def read_all(stream: BinaryIO, source: str) -> bytes:
    """Return what an opened file holds, from its start."""
    try:
        stream.seek(0)
        return stream.read()
    except OSError as error:
        raise _unreadable(source, error) from None
    except MemoryError:
        raise InputError(f'{source} does not fit in memory') from None


def _unreadable(source: str, error: Exception) -> InputError:
    return InputError(f'{source} cannot be read: {getattr(error, "strerror", None) or error}')


def decoded(content: bytes, source: str) -> tuple[bytes, str]:
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


def parsed(content: bytes, source: str) -> Any:
    """Return what UTF-8 text without a byte order mark says, as `json` reads it."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        reason = error.msg
        rest = error.doc[error.pos :].strip()
        if (len(rest) < 2 and rest not in (']', '}')) or 'Unterminated' in reason:
            reason = 'it ends in the middle, so it is probably truncated'
        elif reason == 'Extra data':
            reason = 'a second text begins, as in JSON lines; write one list or object'
        raise InputError(
            f'{source} is not valid JSON, line {error.lineno} column {error.colno}: {reason}'
        ) from None
    except RecursionError:
        raise InputError(f'{source} is nested too deeply to be a COCO file') from None
    except MemoryError:
        raise InputError(f'{source} does not fit in memory') from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f'{source} cannot be parsed: {error}') from None
