_base_ = './faster-rcnn_lip-r101_fpn_2x_coco.py'

# MD: modulated deformable 3x3 convolutions in stages 2 to 4.
model = dict(backbone=dict(type='LIPResNetMD'))
