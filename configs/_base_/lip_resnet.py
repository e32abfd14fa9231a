# What makes a stock config one of LIP's. Others inherit from this file beside a config of
# MMDetection's and put the parts in their places.
_base_ = './plugin.py'

lip_resnet50 = dict(
    type='LIPResNet',
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/lip_resnet-50.pth'),
)
