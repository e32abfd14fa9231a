"""Detectors with LIP-ResNet-50: each trains in all that is not frozen, and predicts."""

import logging
from pathlib import Path

import pytest
import survey_configs
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from test_recording import randomised
from test_relatives_configs import sample

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet import config_path
from lip_mmdet.layers import LogitHead

ROOT = Path(config_path()) / 'lip'
DETECTORS = sorted(
    path.name for path in ROOT.glob('*_lip-r50*.py') if not path.name.startswith('faster-rcnn')
)
SLOW = ('deformable-detr', 'dino', 'cascade')


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=pytest.mark.slow) if n.startswith(SLOW) else n for n in DETECTORS],
)
def test_every_lip_that_is_not_frozen_learns(name):
    init_default_scope('mmdet')
    config = Config.fromfile(ROOT / name)
    config.model.backbone.init_cfg = None
    if 'num_queries' in config.model:  # at most the positions of so small an image
        config.model.num_queries = 50
    logging.disable(logging.INFO)  # MMEngine logs every parameter's initialization
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    randomised(model.backbone)
    MessageHub.get_current_instance().update_info('epoch', 0)  # as a Runner does; TOOD asks
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    optimizer.zero_grad = lambda: None  # which follows the step, too
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=[image], data_samples=[sample()])
    losses = model.train().train_step(data, optimizer)
    assert torch.isfinite(losses['loss'])
    heads = {n: m for n, m in model.backbone.named_modules() if isinstance(m, LogitHead)}
    frozen = [n for n, m in heads.items() if not m.conv.weight.requires_grad]
    assert len(heads) == 7 and frozen == ['maxpool.logit']
    for layer, head in heads.items():
        if layer not in frozen:
            assert all(p.grad is not None and p.grad.any() for p in head.parameters()), layer
    (prediction,) = model.eval().test_step(data)
    assert prediction.pred_instances.bboxes.shape[1] == 4
    assert ('masks' in prediction.pred_instances) == ('mask' in name)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.proposal_nums == (1, 10, 100)


def test_the_ten_are_there():
    kinds = {name.partition('_')[0] for name in DETECTORS}
    assert kinds == {
        'atss', 'cascade-mask-rcnn', 'cascade-rcnn', 'deformable-detr', 'dino-4scale', 'fcos',
        'gfl', 'mask-rcnn', 'retinanet', 'tood',
    }  # fmt: skip


def test_the_survey_finds_backbones_and_tries_them():
    plain = dict(type='ResNet', depth=18)
    deformable = dict(
        type='ResNet',
        depth=50,
        style='caffe',
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        dcn=dict(type='DCN', deform_groups=1),
        stage_with_dcn=(False, False, False, True),
    )
    for backbone, wrong in (
        (plain, ''),
        (deformable, ''),
        (dict(type='CSPNeXt', deepen_factor=0.17, widen_factor=0.125), ''),
        (dict(type='SwinTransformer', embed_dims=24), 'LIPBackbone has no place'),
        (dict(type='ResNet', depth=7), 'LIPResNet has no depth 7'),
    ):
        tracker = dict(type='ByteTrack', detector=dict(backbone=backbone))
        assert survey_configs.find_backbone(tracker) is backbone
        found = survey_configs.what_is_wrong(backbone)
        assert wrong in found and bool(found) == bool(wrong)  # MMEngine 0.7.1 puts more before it
    assert survey_configs.find_backbone(dict(type='reid')) is None
    table = survey_configs.as_markdown(
        iter([('a', 'R', ''), ('a', 'X', 'no'), ('b', 'R', '')]), '3'
    )
    assert 'Of the 3 configs of MMDetection 3 that name a backbone 2 become' in table
    assert '| R | 2 | 2 |  |' in table and '| a | 1 of 2 | X (1) |' in table
