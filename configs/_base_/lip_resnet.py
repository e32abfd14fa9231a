# What makes a stock config one of LIP's. Others inherit from this file beside a config of
# MMDetection's and put the parts in their places.
custom_imports = dict(imports=['lip_mmdet.plugin'], allow_failed_imports=False)

lip_resnet50 = dict(
    type='LIPResNet',
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/lip_resnet-50.pth'),
)

# COCO scores at most 1, 10 and 100 detections an image; MMDetection's default reports AP50, AP75
# and the area figures with 1000.
coco_limits = dict(proposal_nums=(1, 10, 100))
