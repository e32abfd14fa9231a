_base_ = './musu_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(type='LIPResNet', init_cfg=dict(checkpoint='checkpoints/lip_resnet-50.pth'))
)
