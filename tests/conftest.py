"""What a test registers with MMEngine is gone after it; a GPU is seen by its tests alone."""

import os
import sys

import pytest


def pytest_configure(config):
    """Hide GPUs, on which MMEngine would train, unless it is ``pytest -m gpu``."""
    if config.option.markexpr != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


@pytest.fixture(scope='session', autouse=True)
def _mmengine_at_first():
    """What MMEngine keeps for the process before any test or fixture has run."""
    return {kind: kind._instance_dict.copy() for kind in _kinds()}


@pytest.fixture(autouse=True)
def _mmengine_as_at_first(_mmengine_at_first):
    """Restore the default scope, loggers and visualizers, of which a Runner makes new ones.

    Tests without MMEngine stay without it.
    """
    yield
    for kind in _kinds():
        kind._instance_dict.clear()
        kind._instance_dict.update(_mmengine_at_first.get(kind, {}))


def _kinds(manager=None):
    manager = manager or getattr(sys.modules.get('mmengine.utils'), 'ManagerMixin', None)
    if manager is not None:
        yield manager
        for kind in manager.__subclasses__():
            yield from _kinds(kind)
