_base_ = './musu_r50_fpn_1x_coco.py'

# Purely mutual: a head's own score has no say in the choice of its samples.
model = dict(bbox_head=dict(own_exponent=0.0))
