"""What was written for lip_mmdet 0.1 works, or is refused with the new spelling."""

import importlib

import pytest

from lip_mmdet.moved import MOVED

PUBLIC = {
    'lip_mmdet': 'config_path',
    'lip_mmdet.plugin': '',
    'lip_mmdet.ops': 'gated_lip2d gated_lip2d_reference instance_norm instance_norm_reference '
    'lip2d to_contiguous',
    'lip_mmdet.layers': 'SGE BottleneckLogit IdentityLogit InstanceNorm2d LIPPool2d LogitHead '
    'LogitTrunk ProjectionLogit SimplifiedLogit SoftGate set_implementation',
    'lip_mmdet.backbones': 'DenseNet LIPDenseNet LIPResNet LIPResNetMD SGEResNet',
    'lip_mmdet.evaluation': 'break_down compare evaluate figures find_reference find_split '
    'image_ap load_detections load_ground_truth write_submission',
    'lip_mmdet.evaluation.coco_metric': 'LIPCocoMetric',
    'lip_mmdet.visualization': 'plot_detections_beside_truth plot_training',
    'lip_mmdet.engine.checkpoints': 'allow_runner_checkpoints check_checkpoint',
}


@pytest.mark.parametrize('package', PUBLIC)
def test_a_public_name_is_there_or_its_successor_is_named(package):
    for name in PUBLIC[package].split() or ['__name__']:
        try:
            exec(f'from {package} import {name}', {})
        except ImportError as error:
            (old,) = {package, f'{package}.{name}'} & set(MOVED)
            assert str(error) == f'{old} of lip_mmdet 0.1 is {MOVED[old]} now'


def test_other_missing_names_stay_pythons_own_errors():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lip_mmdet\.nowhere'"):
        importlib.import_module('lip_mmdet.nowhere')
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec('from lip_mmdet.ops import nothing', {})
