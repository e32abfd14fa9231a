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
twice = {
    'train_cfg.max_epochs': 12,
    'train_cfg.val_interval': 12,
    'param_scheduler.1.end': 12,
    'param_scheduler.1.T_max': 12,
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
bccd = dict(config='bccd-finetune.py', truth='bccd_val.json.gz', starts_from='resnet18')
atss = '../musu/atss_r18_fpn_6e_dsb2018-256.py'
musu = '../musu/musu_r18_fpn_6e_dsb2018-256.py'
# The detectors of the main pair, on images that are not as those they were trained on.
padded = {'model.data_preprocessor.pad_size_divisor': 384}
masked = {
    'model.backbone.mask_padding': True,
    'model.data_preprocessor.type': 'SizedDetDataPreprocessor',
}
smaller = {'test_dataloader.dataset.pipeline.1.scale': (171, 171)}
larger = {'test_dataloader.dataset.pipeline.1.scale': (341, 341)}
noisy = {
    'custom_imports.imports': ['lip_mmdet.plugin', 'lip_mmdet.study.noise'],
    'test_dataloader.dataset.pipeline.0': dict(type='LoadNoisyImage', deviation=10),
}
conditions = {
    'padded to 384': padded,
    'a third smaller': smaller,
    'a third larger': larger,
    'with noise': noisy,
}


def tested(arm, condition, changes):
    """Return the arm that tests another's detectors as they are."""
    name = {'resnet18': 'ResNet-18', 'lip-resnet18': 'LIP-ResNet-18'}[arm]
    return dict(
        name=f'{arm}-{condition.replace(" ", "-")}',
        label=f'{condition}: {name}',
        config=detector,
        seeds=seeds[:3],
        tests=arm,
        changes={**changes, **(lip if arm == 'lip-resnet18' else {})},
    )


def explored(name, label, changes, config=detector, seeds=seeds[:3]):
    """Return an arm that asks what is worth a study."""
    return dict(
        name=name, label=f'{label} (exploratory)', config=config, seeds=seeds, changes=changes
    )


def gated(coefficient):
    return {**lip, 'model.backbone.gate_coefficient': coefficient}


def rival(backbone):
    return {
        'custom_imports.imports': ['lip_mmdet.plugin', 'lip_mmdet.study.rivals'],
        'model.backbone.type': backbone,
    }


# CSPNeXt-m, with about ResNet-18's multiply-adds and maps of its strides.
cspnext = dict(
    type='CSPNeXt',
    deepen_factor=0.67,
    widen_factor=0.75,
    out_indices=(1, 2, 3, 4),
    norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
)


def wrapped(order=None):
    backbone = dict(type='LIPBackbone', backbone=cspnext, order=order) if order else cspnext
    return {
        'model.backbone': dict(backbone, _delete_=True),
        'model.neck.in_channels': [96, 192, 384, 768],
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
    dict(name='bccd-plain', label='blood cells: ResNet-18', seeds=seeds[:3], **bccd),
    dict(name='bccd-lip', label='blood cells: LIP-ResNet-18', seeds=seeds[:3], changes=lip, **bccd),
    dict(
        name='average',
        label='LIP-ResNet-18 without importance (average pooling)',
        config=detector,
        seeds=seeds[:3],
        # Logits between 0 and a millionth: LIP's network, and average pooling.
        changes={**lip, 'model.backbone.gate_coefficient': 1e-6},
    ),
    dict(
        name='stem',
        label='LIP in the stem alone',
        config=detector,
        seeds=seeds[:3],
        changes={**lip, 'model.backbone.lip_stages': [False] * 4},
    ),
    dict(
        name='stages',
        label='LIP in the stages alone',
        config=detector,
        seeds=seeds[:3],
        changes={**lip, 'model.backbone.lip_stem': False},
    ),
    dict(
        name='resnet18-d',
        label='ResNet-18-D (deep_stem, avg_down)',
        config=detector,
        seeds=seeds[:3],
        changes={'model.backbone.deep_stem': True, 'model.backbone.avg_down': True},
    ),
    dict(
        name='resnet34',
        label='ResNet-34',
        config=detector,
        seeds=seeds,
        changes={'model.backbone.depth': 34},
    ),
    dict(
        name='resnet18-twice',
        label='ResNet-18, twice the schedule',
        config=detector,
        seeds=seeds,
        changes=twice,
    ),
    dict(
        name='lip-resnet18-twice',
        label='LIP-ResNet-18, twice the schedule',
        config=detector,
        seeds=seeds,
        changes={**twice, **lip},
    ),
    dict(name='atss', label='ATSS, ResNet-18', config=atss, seeds=seeds[:3]),
    dict(name='musu', label='MuSu, ResNet-18', config=musu, seeds=seeds[:3]),
    dict(name='musu-lip', label='MuSu, LIP-ResNet-18', config=musu, seeds=seeds[:3], changes=lip),
    *(
        tested(arm, condition, changes)
        for condition, changes in conditions.items()
        for arm in ('resnet18', 'lip-resnet18')
    ),
    tested('lip-resnet18', 'padded to 384 and masked', {**padded, **masked}),
    explored('gate-off', 'LIP-ResNet-18, no gate', gated(None)),
    explored('gate-6', 'LIP-ResNet-18, gate coefficient 6', gated(6)),
    explored('gate-24', 'LIP-ResNet-18, gate coefficient 24', gated(24)),
    explored(
        'stem-max',
        'LIP-ResNet-18, stem starts close to max pooling',
        {**lip, 'model.backbone.stem_logit': dict(type='SimplifiedLogit', init='max')},
    ),
    explored(
        'softpool',
        'LIP-ResNet-18 with SoftPool',
        {
            **lip,
            'model.backbone.stem_logit': dict(type='IdentityLogit'),
            'model.backbone.stage_logit': dict(type='IdentityLogit'),
        },
    ),
    explored('blurpool', 'ResNet-18 with BlurPool', rival('BlurPoolResNet')),
    explored('spd', 'ResNet-18 with SPD-Conv', rival('SPDResNet')),
    explored('musu-a0', 'MuSu, ResNet-18, a = 0', {'model.bbox_head.own_exponent': 0.0}, musu),
    explored('musu-a05', 'MuSu, ResNet-18, a = 0.5', {'model.bbox_head.own_exponent': 0.5}, musu),
    explored(
        'musu-3-anchors',
        'MuSu, ResNet-18, three anchors',
        {'model.bbox_head.anchor_generator.scales_per_octave': 3},
        musu,
    ),
    explored('cspnext', 'CSPNeXt-m', wrapped(), seeds=seeds),
    explored(
        'lip-cspnext-before', 'CSPNeXt-m, LIP before convolutions', wrapped('before'), seeds=seeds
    ),
    explored(
        'lip-cspnext-after', 'CSPNeXt-m, LIP after convolutions', wrapped('after'), seeds=seeds
    ),
]
compared = [
    ('lip-resnet18', 'resnet18'),
    ('lip-resnet18', 'resnet18-wide'),
    ('resnet18-wide', 'resnet18'),
    ('upgrade-lip', 'upgrade-plain'),
    ('bccd-lip', 'bccd-plain'),
    ('lip-resnet18', 'average'),
    ('average', 'resnet18'),
    ('stem', 'resnet18'),
    ('stages', 'resnet18'),
    ('stem', 'lip-resnet18'),
    ('stages', 'lip-resnet18'),
    ('resnet18-d', 'resnet18'),
    ('lip-resnet18', 'resnet18-d'),
    ('lip-resnet18', 'resnet34'),
    ('lip-resnet18-twice', 'resnet18-twice'),
    ('musu', 'atss'),
    ('musu-lip', 'musu'),
    ('lip-resnet18-padded-to-384', 'resnet18-padded-to-384'),
    ('lip-resnet18-padded-to-384-and-masked', 'resnet18-padded-to-384'),
    ('lip-resnet18-a-third-smaller', 'resnet18-a-third-smaller'),
    ('lip-resnet18-a-third-larger', 'resnet18-a-third-larger'),
    ('lip-resnet18-with-noise', 'resnet18-with-noise'),
    ('gate-off', 'lip-resnet18'),
    ('gate-6', 'lip-resnet18'),
    ('gate-24', 'lip-resnet18'),
    ('stem-max', 'lip-resnet18'),
    ('softpool', 'resnet18'),
    ('softpool', 'lip-resnet18'),
    ('blurpool', 'resnet18'),
    ('spd', 'resnet18'),
    ('musu-a0', 'musu'),
    ('musu-a05', 'musu'),
    ('musu-3-anchors', 'musu'),
    ('lip-cspnext-before', 'cspnext'),
    ('lip-cspnext-after', 'cspnext'),
    ('lip-cspnext-before', 'lip-cspnext-after'),
]
