_base_ = './faster-rcnn_lip-r50_fpn_ms-3x_coco.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='checkpoints/lip_resnet-101.pth')))
