# SGE-ResNet-50 in the place of a stock config's ResNet-50.
_base_ = './plugin.py'

sge_resnet50 = dict(
    type='SGEResNet',
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/sge_resnet50.pth'),
)
