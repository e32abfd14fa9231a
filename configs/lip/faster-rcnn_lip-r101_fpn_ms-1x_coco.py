_base_ = ['./faster-rcnn_lip-r101_fpn_1x_coco.py', '../_base_/multi_scale.py']

train_dataloader = dict(dataset=dict(pipeline=_base_.multi_scale_pipeline))
