"""Local Importance-based Pooling (LIP) for MMDetection.

LIP (Gao, Wang and Wu, ICCV 2019, arXiv 1908.04156) downsamples by a weighted average whose weights,
one per position and channel, a small network learns.

``import lip_mmdet`` (or, in a config, ``custom_imports = dict(imports=['lip_mmdet'])``) makes the
backbones known to MMDetection. It is cheap all the same: they are imported when MMDetection looks
something up, for the evaluation works without torch and the operators without MMDetection.
"""

from lip_mmdet.locations import config_path
from lip_mmdet.moved import refuse_old_names
from lip_mmdet.registration import register
from lip_mmdet.version import __version__

__all__ = ['__version__', 'config_path']

refuse_old_names()
register()
