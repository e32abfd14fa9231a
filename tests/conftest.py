"""What a test registers with MMEngine is gone after it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _mmengine_as_found():
    """Restore the default scope, loggers and visualizers, which MMEngine keeps for a process.

    A Runner within a test makes new ones of each. Tests without MMEngine stay without it.
    """
    manager = getattr(sys.modules.get('mmengine.utils'), 'ManagerMixin', None)
    before = {kind: kind._instance_dict.copy() for kind in _kinds(manager)}
    yield
    manager = getattr(sys.modules.get('mmengine.utils'), 'ManagerMixin', None)
    for kind in _kinds(manager):
        kind._instance_dict.clear()
        kind._instance_dict.update(before.get(kind, {}))


def _kinds(manager):
    if manager is not None:
        yield manager
        for kind in manager.__subclasses__():
            yield from _kinds(kind)
