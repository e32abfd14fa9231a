"""Local Importance-based Pooling (LIP) for MMDetection.

LIP (Gao, Wang and Wu, ICCV 2019, arXiv 1908.04156) downsamples by a weighted average whose weights,
one per position and channel, a small network learns.

Importing this package is cheap and registers nothing: its evaluation works without torch and its
operators without MMDetection. ``import lip_mmdet.plugin`` (or, in a config,
``custom_imports = dict(imports=['lip_mmdet.plugin'])``) is what makes the backbones known to
MMDetection.
"""

from lip_mmdet.locations import config_path
from lip_mmdet.moved import refuse_old_names
from lip_mmdet.version import __version__

refuse_old_names()

__all__ = ['__version__', 'config_path']
