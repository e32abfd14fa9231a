"""Writing files so that a crash or Ctrl-C never leaves half of one, nor loses what was there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

from lip_mmdet.errors import InputError


@contextmanager
def replace_on_success(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in ``path``'s folder; move it to ``path`` if the block succeeds.

    Missing parent folders are made; a link stays a link. If the block raises, the temporary file
    is removed and whatever ``path`` held stays as it was. What is no file to replace, such as a
    FIFO or ``/dev/stdout``, gets the content when the block has succeeded.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'cannot write {path}: it is a folder; name a file')
    stream = is_stream(path)
    target = Path(os.path.realpath(path)) if path.is_symlink() and not stream else path
    # Named before it exists, so that an interruption at any moment finds what to remove.
    name = f'.{path.name}.{secrets.token_hex(8)}{path.suffix}'
    temporary = Path(tempfile.gettempdir(), name) if stream else target.with_name(name)
    try:
        _create(temporary, path)
        yield temporary
        if stream:
            sys.stdout.flush()
            # Appending, for standard output may be a file that holds something already.
            with _naming(path), open(temporary, 'rb') as content, open(path, 'ab') as out:
                shutil.copyfileobj(content, out)
        else:
            temporary.replace(target)
    finally:
        with suppress(OSError):  # moved, or never made
            temporary.unlink()


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a path names a FIFO, a device or standard output, which cannot be replaced."""
    path = Path(path)
    # Standard output may be a file; then it has that file's path too.
    if str(path).startswith(('/dev/', '/proc/')):
        return not os.path.realpath(path).startswith('/dev/shm/')
    with suppress(OSError):
        return path.exists() and not path.is_file() and not path.is_dir()
    return False


def _create(temporary: Path, path: Path) -> None:
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except (OSError, ValueError) as error:  # a null character in the name is a ValueError
        raise InputError(
            f'cannot write {path}: {getattr(error, "strerror", error)}; name a writable folder'
        ) from error


@contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the machine refuses, such as writing to a full disk, into a line with the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from error


def write_bytes(file: Path, content: bytes, name: str | os.PathLike) -> None:
    """Write a file.

    Raises:
        InputError: it cannot be written, the disk is full; the message has ``name``.
    """
    with _naming(name):
        file.write_bytes(content)


def write_text(file: Path, text: str, name: str | os.PathLike) -> None:
    """Write UTF-8 text; what no text file can hold becomes a question mark.

    Raises:
        InputError: see :func:`write_bytes`.
    """
    write_bytes(file, text.encode('utf-8', 'replace'), name)


def json_text(content: Any) -> str:
    """Return ``content`` as indented JSON; NaN and infinities are refused (``ValueError``)."""
    return json.dumps(content, indent=2, allow_nan=False) + '\n'


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as :func:`json_text`."""
    text = json_text(content)
    with replace_on_success(path) as temporary:
        write_text(temporary, text, path)
