_base_ = './faster-rcnn_lip-r50_fpn_1x_coco.py'

# SGE stands where training reaches it. The frozen first stage would keep it as it starts, which is
# to shrink each residual branch of LIP-ResNet's weights by a quarter.
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
