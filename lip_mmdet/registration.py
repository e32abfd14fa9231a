"""How ``import lip_mmdet`` makes its parts known to MMDetection without importing it, or torch.

MMDetection's registries import their own modules when something is first looked up in them. The
plugin joins those: at once where MMDetection is loaded already, else when its registries are.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys

PLUGIN = 'lip_mmdet.plugin'
_REGISTRIES = 'mmdet.registry'
# The registries in which the plugin has something.
_NAMES = ('MODELS', 'HOOKS', 'METRICS', 'RUNNERS')


def register() -> None:
    """Register the plugin with MMDetection, now or as soon as MMDetection is loaded."""
    if _REGISTRIES in sys.modules:
        importlib.import_module(PLUGIN)
    else:
        sys.meta_path.insert(0, _Watch())


class _Watch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Wait for MMDetection's registries to be imported, then leave."""

    def find_spec(self, name, path=None, target=None):
        if name != _REGISTRIES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        # Who reads a checkpoint before looking anything up is safe from here on.
        from lip_mmdet.engine.safe_loading import make_loading_safe

        make_loading_safe()
        for name in _NAMES:
            getattr(module, name)._locations.append(PLUGIN)
