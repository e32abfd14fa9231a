_base_ = './faster-rcnn_lip-r50_fpn_1x_coco.py'

# SGE stands where training reaches it: in the frozen first stage it would stay without effect.
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='SGE', groups=64),
                stages=(False, True, True, True),
                position='after_conv3',
            )
        ]
    )
)
