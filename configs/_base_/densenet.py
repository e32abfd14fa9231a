# DenseNet-121 and LIP-DenseNet-121, trained as MMDetection trains its ResNets: statistics of batch
# normalization as they are, stem and first dense block frozen.
_base_ = './plugin.py'

densenet121 = dict(
    type='DenseNet',
    depth=121,
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://densenet121'),
)
lip_densenet121 = dict(
    type='LIPDenseNet',
    depth=121,
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/lip_densenet-121.pth'),
)
densenet121_channels = [256, 512, 1024, 1024]
