# The same with MuSuHead; AP beside ATSS's says what mutual supervision is worth here.
_base_ = './atss_r18_fpn_6e_dsb2018-256.py'

model = dict(
    type='SingleStageDetector',
    bbox_head=dict(
        _delete_=True,
        type='MuSuHead',
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        anchor_generator=_base_.model.bbox_head.anchor_generator,
    ),
    train_cfg=None,
)
