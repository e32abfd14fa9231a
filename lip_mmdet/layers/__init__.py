"""Layers: the soft gate, the logit modules, LIP as a pooling layer, what it looks at, and SGE."""

from lip_mmdet.dependencies import require

require('torch', 'mmcv', 'mmengine', 'mmdet')

from lip_mmdet.layers.implementation import set_implementation  # noqa: E402
from lip_mmdet.layers.instance_norm import InstanceNorm2d  # noqa: E402
from lip_mmdet.layers.lip_pool import LIPPool2d  # noqa: E402
from lip_mmdet.layers.logit_modules import (  # noqa: E402
    BottleneckLogit,
    DepthwiseLogit,
    IdentityLogit,
    LogitHead,
    LogitTrunk,
    ProjectionLogit,
    SimplifiedLogit,
    pool_by_importance,
)
from lip_mmdet.layers.recording import ImportanceMap, record_importance  # noqa: E402
from lip_mmdet.layers.sge import SGE  # noqa: E402
from lip_mmdet.layers.soft_gate import SoftGate  # noqa: E402

__all__ = [
    'SGE',
    'BottleneckLogit',
    'DepthwiseLogit',
    'IdentityLogit',
    'ImportanceMap',
    'InstanceNorm2d',
    'LIPPool2d',
    'LogitHead',
    'LogitTrunk',
    'ProjectionLogit',
    'SimplifiedLogit',
    'SoftGate',
    'pool_by_importance',
    'record_importance',
    'set_implementation',
]
