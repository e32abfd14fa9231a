_base_ = './lip-resnet50_8xb32_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True, type='mmdet.LIPDenseNet', depth=121, out_indices=(3,), norm_eval=False
    ),
    head=dict(in_channels=1024),
)
