"""Writing files so that a crash or Ctrl-C never leaves half of one, nor loses what was there."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator

from lip_mmdet.errors import InputError


@contextmanager
def replace_on_success(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path in ``path``'s folder; move it to ``path`` if the block succeeds.

    Missing parent folders are made. If the block raises, the temporary file is removed and whatever
    ``path`` held stays as it was.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'cannot write {path}: it is a folder; name a file')
    # Named before it exists, so that an interruption at any moment finds what to remove.
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(8)}{path.suffix}')
    try:
        _create(temporary, path)
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # moved, or never made
            temporary.unlink()


def _create(temporary: Path, path: Path) -> None:
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise InputError(
            f'cannot write {path}: {error.strerror}; name a writable folder'
        ) from error


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as indented JSON; NaN and infinities are refused (``ValueError``)."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with replace_on_success(path) as temporary:
        temporary.write_text(text + '\n', encoding='utf-8')
