# Does LIP help on small dense objects? docs/study.md has the protocol. Run from the project's root:
#   python tools/study.py configs/study/dsb2018.py
name = 'dsb2018'
results = 'docs/study/dsb2018'
truth = 'val_small.json.gz'
max_dets = 400

detector = '../dsb2018/faster-rcnn_r18_fpn_6e_dsb2018-256.py'
seeds = [0, 1, 2, 3, 4]
lip = {'model.backbone.type': 'LIPResNet'}
wide = {
    'model.backbone.base_channels': 81,
    'model.backbone.stem_channels': 81,
    'model.neck.in_channels': [81, 162, 324, 648],
}
# Two epochs more, as MMDetection fine-tunes.
upgrade = {
    'model.backbone.frozen_stages': 1,
    'model.backbone.norm_eval': True,
    'optim_wrapper.optimizer.lr': 1e-4,
    'param_scheduler': [],
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
}

arms = [
    dict(name='resnet18', label='ResNet-18', config=detector, seeds=seeds),
    dict(name='lip-resnet18', label='LIP-ResNet-18', config=detector, seeds=seeds, changes=lip),
    dict(
        name='resnet18-wide',
        label="ResNet-18, widened to LIP's multiply-adds",
        config=detector,
        seeds=seeds,
        changes=wide,
    ),
    dict(
        name='upgrade-plain',
        label='ResNet-18, two epochs on',
        config=detector,
        seeds=seeds,
        changes=upgrade,
        starts_from='resnet18',
    ),
    dict(
        name='upgrade-lip',
        label='LIP-ResNet-18, two epochs on from ResNet-18',
        config=detector,
        seeds=seeds,
        changes={**upgrade, **lip},
        starts_from='resnet18',
    ),
]
compared = [
    ('lip-resnet18', 'resnet18'),
    ('lip-resnet18', 'resnet18-wide'),
    ('resnet18-wide', 'resnet18'),
    ('upgrade-lip', 'upgrade-plain'),
]
planned = [
    "ResNet-18 widened to LIP-ResNet-18's measured time",
    'ResNet-18 and LIP-ResNet-18 at twice the schedule',
    'fine-tuning on blood cells (BCCD) from the ResNet-18 detectors, plain and LIP',
    'LIP with logits frozen at zero',
    'LIP in the stem alone, in the stages alone',
    'ResNet-18 with deep_stem and avg_down',
    'gate off, coefficients 6 and 24, SoftPool, BlurPool, SPD-Conv',
    'ATSS and MuSu with ResNet-18 and LIP-ResNet-18',
    'LIPBackbone around CSPNeXt, before and after the convolutions',
]
