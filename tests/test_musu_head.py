"""MuSuHead and its configs: the loss against float64, and what MMDetection does with the head."""

import logging
from pathlib import Path

import pytest
import torch
from mmdet.models.dense_heads import ATSSHead
from mmdet.models.losses import FocalLoss
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from test_mutual_assignment import assign_by_loops

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet import config_path
from lip_mmdet.dense_heads import FocalPairLoss, MuSuHead, musu_head
from lip_mmdet.errors import InputError

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 3
CONFIGS = sorted(Path(config_path('musu/musu_r50_fpn_1x_coco.py')).parent.glob('*.py'))


def head(scales=1, **arguments):
    anchors = dict(
        type='AnchorGenerator',
        ratios=[1.0],
        octave_base_scale=4,
        scales_per_octave=scales,
        strides=STRIDES,
    )
    return MuSuHead(
        CLASSES, 8, feat_channels=32, stacked_convs=1, anchor_generator=anchors, **arguments
    )


def maps(channels, spread, images=2):
    """Return what the head might have put out for a canvas of 128 x 128 pixels."""
    return [
        (spread * torch.randn(images, channels, 128 // stride, 128 // stride)).requires_grad_()
        for stride in STRIDES
    ]


def image(boxes=(), labels=(), shape=(128, 128), pad_shape=None):
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    labels = torch.tensor(labels, dtype=torch.long)
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    meta['pad_shape'] = pad_shape or shape
    return InstanceData(bboxes=boxes, labels=labels), meta


def loss_of(a_head, logits, outputs, images, ignored=None):
    objects, metas = zip(*images)
    if ignored is not None:
        ignored = [InstanceData(bboxes=torch.tensor(x).reshape(-1, 4)) for x in ignored]
    return a_head.loss_by_feat(logits, outputs, list(objects), list(metas), ignored)


def loss_by_loops(logits, outputs, images, ignored):
    """Return both losses of one anchor a location, in float64 from formulas alone."""
    parts, total_targets, total_weights = [], 0.0, 0.0
    for b, (objects, meta) in enumerate(images):
        height, width = meta['img_shape']
        priors = [
            (level, y, x)
            for level, stride in enumerate(STRIDES)
            for y in range(128 // stride)
            for x in range(128 // stride)
        ]
        places = [(x * STRIDES[level], y * STRIDES[level]) for level, y, x in priors]
        z = torch.stack([logits[level][b, :, y, x] for level, y, x in priors])
        boxes = []
        for (level, y, x), (cx, cy) in zip(priors, places):
            dx, dy, dw, dh = outputs[level][b, :, y, x]
            side = 4 * STRIDES[level]
            cx, cy = cx + 0.1 * dx * side, cy + 0.1 * dy * side
            w, h = side * (0.2 * dw).exp(), side * (0.2 * dh).exp()
            boxes.append(torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
        inside = [i for i, (x, y) in enumerate(places) if x < width and y < height]
        truths = objects.bboxes.tolist()
        targets, learned = assign_by_loops(
            [z[i].sigmoid().tolist() for i in inside],
            [boxes[i].tolist() for i in inside],
            [places[i] for i in inside],
            truths,
            objects.labels.tolist(),
            13,
            0.2,
            3.0,
        )
        targets = {(inside[i], k): t for (i, k), t in targets.items()}
        taught = {i for i, _ in targets}
        for i, (level, y, x) in enumerate(priors):
            stride = STRIDES[level]
            if y * stride >= meta['pad_shape'][0] or x * stride >= meta['pad_shape'][1]:
                continue  # in the padding of the batch
            if i not in taught and any(
                x1 <= places[i][0] <= x2 and y1 <= places[i][1] <= y2
                for x1, y1, x2, y2 in ignored[b]
            ):
                continue
            for k in range(CLASSES):
                p, t = z[i, k].sigmoid(), targets.get((i, k), 0.0)
                positive = -0.25 * (1 - p) ** 2 * p.log()
                negative = -0.75 * p**2 * (1 - p).log()
                parts.append(('cls', t * positive + (1 - t) * negative))
                total_targets += t
        for i, (weight, _, j) in learned.items():
            (x1, y1, x2, y2), t = boxes[inside[i]], truths[-j]
            w = torch.clamp(x2.clamp(max=t[2]) - x1.clamp(min=t[0]), min=0)
            h = torch.clamp(y2.clamp(max=t[3]) - y1.clamp(min=t[1]), min=0)
            union = (x2 - x1) * (y2 - y1) + (t[2] - t[0]) * (t[3] - t[1]) - w * h
            hull = (x2.clamp(min=t[2]) - x1.clamp(max=t[0])) * (
                y2.clamp(min=t[3]) - y1.clamp(max=t[1])
            )
            parts.append(('bbox', 2 * weight * (1 - w * h / union + (hull - union) / hull)))
            total_weights += weight
    cls = sum(x for name, x in parts if name == 'cls') / max(total_targets, 1)
    return cls, sum(x for name, x in parts if name == 'bbox') / max(total_weights, 1)


def test_the_loss_and_its_gradients_equal_loops_in_float64():
    torch.manual_seed(0)
    logits, outputs = maps(CLASSES, 1.0), maps(4, 1.5)
    images = [
        image([[10, 12, 60, 70], [30, 20, 90, 64], [101, 101, 103, 104]], [0, 1, 1]),
        # Centres on the second object's right and lower border are in the padding.
        image([[5, 5, 50, 40], [60, 40, 104, 72]], [2, 0], (72, 104), pad_shape=(96, 128)),
    ]
    ignored = [[[64.0, 64.0, 128.0, 128.0]], []]
    found = loss_of(head(), logits, outputs, images, ignored)
    exact = [[x.detach().double().requires_grad_() for x in y] for y in (logits, outputs)]
    expected = loss_by_loops(*exact, images, ignored)
    torch.testing.assert_close(found['loss_cls'].double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found['loss_bbox'].double(), expected[1], rtol=1e-5, atol=0)
    sum(found.values()).backward()
    sum(expected).backward()
    # No gradient has come through keys, ranks or bags, for there is none in the loops'.
    for one, other in zip(logits + outputs, exact[0] + exact[1]):
        grad = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(one.grad.double(), grad, rtol=1e-4, atol=1e-7)


def test_focal_pair_loss():
    torch.manual_seed(0)
    logits, labels, weight = 3 * torch.randn(50, 4), torch.randint(0, 5, (50,)), torch.rand(50)
    hard = torch.nn.functional.one_hot(labels, 5)[:, :4].float()
    found = FocalPairLoss()(logits, hard, weight, avg_factor=7.0)
    expected = FocalLoss(use_sigmoid=True)(logits, labels, weight, avg_factor=7.0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    soft = FocalPairLoss()(torch.tensor([[0.3]]), torch.tensor([[0.6]]), torch.ones(1), 1.0)
    assert soft.item() == pytest.approx(0.0996, abs=5e-5)


def test_images_without_objects_are_negatives():
    torch.manual_seed(0)
    logits, outputs = maps(CLASSES, 1.0), maps(4, 1.0)
    losses = loss_of(head(), logits, outputs, [image(), image()])
    z = torch.cat([x.flatten() for x in logits])
    expected = (0.75 * z.sigmoid() ** 2 * torch.nn.functional.softplus(z)).sum()
    torch.testing.assert_close(losses['loss_cls'], expected)
    assert losses['loss_bbox'] == 0
    sum(losses.values()).backward()  # as DDP needs it, to every output
    assert all(x.grad is not None and x.grad.isfinite().all() for x in logits + outputs)


def test_with_three_anchors_an_object_on_one_of_them_has_it_on_top(monkeypatch):
    given, assign = [], musu_head.assign
    monkeypatch.setattr(
        musu_head, 'assign', lambda *a, **k: given.append(assign(*a, **k)) or given[-1]
    )
    three = head(scales=3)
    sizes = [(128 // stride,) * 2 for stride in STRIDES]
    anchors = torch.cat(three.prior_generator.grid_priors(sizes, device='cpu'))
    for i in (3 * (16 * 8 + 8) + 1, 3 * (256 + 8 * 4 + 4) + 2):
        untrained = [maps(3 * n, 0.0, images=1) for n in (CLASSES, 4)]
        loss_of(three, *untrained, [image([anchors[i].tolist()], [2])])
        assert given[-1].scores[:, 2].argmax() == given[-1].weights.argmax() == i
        assert given[-1].scores.max() == given[-1].weights.max() == 1


def test_sums_are_averaged_over_processes(monkeypatch):
    torch.manual_seed(0)
    inputs = maps(CLASSES, 1.0), maps(4, 1.0), [image([[10, 12, 60, 70]], [0])] * 2
    alone = loss_of(head(), *inputs)
    monkeypatch.setattr(musu_head, 'reduce_mean', lambda sums: 2 * sums)
    for name, loss in loss_of(head(), *inputs).items():
        torch.testing.assert_close(loss, alone[name] / 2)


def test_gradients_are_finite_in_half_precision_at_a_scalers_scale():
    torch.manual_seed(0)
    model = head(norm_cfg=None)  # the CPU's GroupNorm takes bfloat16 from torch 2 on
    model.init_weights()
    features = [torch.randn(2, 8, 128 // s, 128 // s) for s in STRIDES]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits, outputs = model(features)
        assert logits[0].dtype == torch.bfloat16
        losses = loss_of(model, logits, outputs, [image([[10, 12, 60, 70]], [0]), image()])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    (2.0**16 * sum(losses.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_detections_equal_those_of_atss_with_score_factor_1():
    torch.manual_seed(0)
    logits, outputs = maps(CLASSES, 2.0), maps(4, 1.0)
    test_cfg = ConfigDict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    )
    atss = ATSSHead(
        CLASSES,
        8,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=4,
            scales_per_octave=1,
            strides=STRIDES,
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        test_cfg=test_cfg,
    )
    certain = [torch.full_like(x[:, :1], 100.0) for x in logits]
    metas = [image()[1]] * 2
    found = head().predict_by_feat(logits, outputs, batch_img_metas=metas)
    for one, other in zip(found, atss.predict_by_feat(logits, outputs, certain, metas)):
        assert len(one) == 100
        for name in ('bboxes', 'scores', 'labels'):
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize(
    'wrong',
    [
        dict(bag_size=0),
        dict(own_exponent=0.6),
        dict(temperature=0),
        dict(train_cfg=dict(assigner=dict(type='ATSSAssigner'))),
        dict(loss_cls=dict(type='FocalPairLoss', use_sigmoid=False)),
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        head(**wrong)


def sample(num_classes):
    objects, meta = image([[4, 4, 40, 40], [30, 20, 60, 50]], [0, num_classes - 1], (64, 64))
    return DetDataSample(metainfo=dict(meta, batch_input_shape=(64, 64)), gt_instances=objects)


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_config_is_what_its_name_says(path):
    init_default_scope('mmdet')
    config = Config.fromfile(path)
    name, backbone = path.stem.split('_')[:2]
    assert config.model.bbox_head.type == dict(musu='MuSuHead', atss='ATSSHead')[name]
    assert config.model.backbone.type == ('LIPResNet' if 'lip' in backbone else 'ResNet')
    assert backbone.endswith(f'r{config.model.backbone.depth}')
    epochs = 6 if '_6e_' in path.stem else 24 if '_2x_' in path.stem else 12
    assert config.train_cfg.max_epochs == epochs
    if name == 'musu':
        own_exponent = 0 if 'mutual' in path.stem else 0.5 if 'conventional' in path.stem else 0.2
        assert MODELS.build(config.model.bbox_head).assignment == dict(
            bag_size=39 if '3anchors' in path.stem else 13,
            own_exponent=own_exponent,
            temperature=3.0,
        )
    if 'coco' in path.stem:
        assert config.param_scheduler[1].milestones == ([16, 22] if epochs == 24 else [8, 11])
        assert config.optim_wrapper.optimizer.lr == 0.01
    limits = (1, 10, 100 if 'coco' in path.stem else 400)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.proposal_nums == limits


# The others differ from these in a number of the head or in the backbone's depth.
@pytest.mark.parametrize(
    'name',
    [
        'musu_lip-r50_fpn_1x_coco',
        'musu_r50_fpn_3anchors_1x_coco',
        'musu_r18_fpn_6e_dsb2018-256',
        'atss_r18_fpn_6e_dsb2018-256',
    ],
)
def test_config_trains_and_predicts(name):
    init_default_scope('mmdet')
    config = Config.fromfile(config_path(f'musu/{name}.py'))
    config.model.backbone.update(init_cfg=None, with_cp=True)
    logging.disable(logging.INFO)  # MMEngine logs every parameter's initialization
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=[picture], data_samples=[sample(model.bbox_head.num_classes)])
    losses = model.train().train_step(data, optimizer)
    assert torch.isfinite(losses['loss'])
    (prediction,) = model.eval().test_step(data)
    assert prediction.pred_instances.bboxes.shape[1] == 4
