_base_ = './faster-rcnn_r50_fpn_4e_bccd-320.py'

model = dict(backbone=dict(type='LIPResNet'))
