"""MMEngine's Runner with a terminal that shows what matters."""

from __future__ import annotations

import logging

from mmengine.logging import MMLogger
from mmengine.runner import Runner

# How the messages begin that fill several screens before the first iteration.
_LONG = ('---', 'Config:', 'Hooks will be executed')


class TerseRunner(Runner):
    """Runner whose report on environment, config and hooks goes to the log file alone."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger; arguments as MMEngine's."""
        logger = super().build_logger(*args, **kwargs)
        files = [h.baseFilename for h in logger.handlers if isinstance(h, logging.FileHandler)]
        for handler in logger.handlers:
            if files and not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_short)
        if files:
            logger.info(f'environment, config and hooks: {files[0]}')
        return logger


def _is_short(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip().startswith(_LONG)
