_base_ = './musu_r50_fpn_1x_coco.py'

# The conventional case to compare with: both heads share one ranking.
model = dict(bbox_head=dict(own_exponent=0.5))
