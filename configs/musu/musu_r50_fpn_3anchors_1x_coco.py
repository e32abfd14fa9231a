_base_ = './musu_r50_fpn_1x_coco.py'

# Three sizes at each location, RetinaNet's of one octave.
model = dict(
    bbox_head=dict(
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=3,
            strides=[8, 16, 32, 64, 128],
        )
    )
)
