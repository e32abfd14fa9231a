"""ImageNet pre-training by mmpretrain: a folder of images to a detector's backbone."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

pytest.importorskip('mmpretrain', reason='its environment is that of tools/try_environment.py')

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet import config_path


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """ImageNet's folders: 1000 classes, an image each."""
    folder = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(1000):
            path = folder / split / f'n{label:08d}'
            path.mkdir(parents=True)
            cv2.imwrite(str(path / '0.JPEG'), rng.integers(0, 256, (40, 50, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ('name', 'detector', 'tensors'),
    [
        ('lip-resnet50', 'lip/faster-rcnn_lip-r50_fpn_1x_coco.py', 357),
        ('lip-resnet101', 'lip/faster-rcnn_lip-r101_fpn_1x_coco.py', 663),
        ('lip-densenet121', 'lip/faster-rcnn_lip-d121_fpn_1x_coco.py', None),
    ],
)
def test_a_pretrained_backbone_goes_into_a_detector(name, detector, tensors, images, tmp_path):
    config = Config.fromfile(config_path(f'imagenet/{name}_8xb32_in1k.py'))
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(images), indices=4)
    config.train_cfg.max_epochs, config.work_dir = 1, str(tmp_path)
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert config.param_scheduler.milestones == [30, 60, 80]
    runner = Runner.from_cfg(config)
    runner.train()

    init_default_scope('mmdet')
    config = Config.fromfile(config_path(detector))
    config.model.backbone.init_cfg.update(
        checkpoint=str(tmp_path / 'epoch_1.pth'), prefix='backbone.'
    )
    net = MODELS.build(config.model.backbone)
    net.init_weights()
    trained = runner.model.backbone.state_dict()
    moved = [v for k, v in trained.items() if k.endswith('running_mean')]
    assert all(v.any() for v in moved)  # batch normalization was trained, not frozen
    loaded = net.state_dict()
    assert loaded.keys() == trained.keys()
    assert tensors is None or len(loaded) == tensors
    for key, value in loaded.items():
        torch.testing.assert_close(value, trained[key], rtol=0, atol=0)
