"""From a config and a checkpoint to figures, in one process and in two, and during val."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode
from tiny_project import write_project

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'eval_coco.py'


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    pytest.importorskip('mmdet')
    folder = tmp_path_factory.mktemp('project')
    config, checkpoint, annotations = write_project(folder)
    return folder, config, checkpoint, annotations


def run(*command, folder, code=0):
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_two_processes_give_the_figures_of_one(project):
    folder, config, checkpoint, annotations = project
    one, two = folder / 'one', folder / 'two'
    tool = (TOOL, config, checkpoint, '--out-json')
    options = ('--work-dir', one, '--report', one / 'report')
    run(sys.executable, *tool, one / 'out.json', *options, folder=folder)
    # The report finds the images where the config has them.
    assert len(list((one / 'report').glob('worst_*.png'))) == 5
    # Five images do not divide by two: the image that pads the second part must not count twice.
    launch = ('-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}')
    options = ('--work-dir', two, '--launcher', 'pytorch')
    run(sys.executable, *launch, *tool, two / 'out.json', *options, folder=folder)

    first, second = (json.loads((part / 'out.json').read_text()) for part in (one, two))
    for part in (first, second):
        assert all('tiny_val.bbox.json' in note for note in part.pop('notes'))  # paths differ
    assert first['counts']['detections']['all'] == 100
    assert first == second

    truth = COCO(str(annotations))
    reference = COCOeval(truth, truth.loadRes(str(one / 'tiny_val.bbox.json')), 'bbox')
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert first['AP'] == reference.stats[0] and first['AR100'] == reference.stats[8]
    assert first['AR100'] > 0


def test_a_test_dev_submission_comes_from_config_and_checkpoint(project):
    folder, config, checkpoint, annotations = project
    dataset = json.loads(annotations.read_text())
    del dataset['annotations']
    (folder / 'coco' / 'annotations').mkdir(parents=True)
    image_info = folder / 'coco' / 'annotations' / 'image_info_test-dev2017.json'
    image_info.write_text(json.dumps(dataset))
    (folder / 'coco' / 'test2017').symlink_to(folder / 'images')
    submit = ('--split', 'test-dev', '--data-root', folder / 'coco', '--submission', folder / 'sub')
    options = (*submit, '--alg', 'tiny', '--work-dir', folder / 'dev')
    run(sys.executable, TOOL, config, checkpoint, *options, folder=folder)
    name = 'detections_test-dev2017_tiny_results'
    assert len(json.loads((folder / 'sub' / f'{name}.json').read_text())) == 100
    check = ('--check-submission', folder / 'sub' / f'{name}.zip', '--ann', image_info)
    assert '100 detections' in run(sys.executable, TOOL, *check, folder=folder).stdout


def test_a_missing_config_checkpoint_or_dataset_is_named(project):
    from lip_mmdet.engine.inference import detect
    from lip_mmdet.errors import InputError

    folder, config, checkpoint, _ = project
    with pytest.raises(InputError, match=r'no\.py'):
        detect(folder / 'no.py', checkpoint)
    with pytest.raises(InputError, match=r'no\.pth'):
        detect(config, folder / 'no.pth')
    (folder / 'cut.py').write_text('model = dict(')
    with pytest.raises(InputError, match=r'cut\.py cannot be read'):
        detect(folder / 'cut.py', checkpoint)
    with pytest.raises(InputError, match='--cfg-options does not fit'):
        detect(config, checkpoint, cfg_options={'model.backbone.depth.x': 1})
    with pytest.raises(InputError, match=r'elsewhere/val\.json'):
        detect(
            config,
            checkpoint,
            cfg_options={'test_dataloader.dataset.data_root': f'{folder}/elsewhere'},
        )


def _predictions(annotations, boxes_of):
    """Return MMDetection data samples for every image of a dataset."""
    import torch

    samples = []
    for image in json.loads(annotations.read_text())['images']:
        boxes, scores, labels = boxes_of(image['id'])
        samples.append(
            dict(
                img_id=image['id'],
                ori_shape=(96, 96),
                pred_instances=dict(
                    bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                    scores=torch.tensor(scores, dtype=torch.float32),
                    labels=torch.tensor(labels, dtype=torch.long),
                ),
            )
        )
    return samples


def _metric(annotations, **options):
    from lip_mmdet.engine.coco_metric import LIPCocoMetric

    metric = LIPCocoMetric(ann_file=str(annotations), **options)
    metric.dataset_meta = dict(classes=('disk', 'bar'))
    return metric


def test_the_metric_reports_what_pycocotools_does_under_mmdetections_names(project):
    _, _, _, annotations = project
    dataset = json.loads(annotations.read_text())

    def near_truth(image_id):
        """Shift each object by three pixels, and find a bar of it as a disk now and then."""
        found = [a for a in dataset['annotations'] if a['image_id'] == image_id]
        boxes = [[x + 3, y, x + w + 3, y + h] for x, y, w, h in (a['bbox'] for a in found)]
        return boxes, [0.9, 0.3 + image_id / 10], [0, image_id % 2]

    samples = _predictions(annotations, near_truth)
    metric = _metric(annotations, classwise=True)
    metric.process({}, samples)
    values = metric.evaluate(len(samples))

    results = [
        dict(
            image_id=sample['img_id'],
            category_id=(3, 7)[label],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=score,
        )
        for sample in samples
        for (x1, y1, x2, y2), score, label in zip(
            *(sample['pred_instances'][key].tolist() for key in ('bboxes', 'scores', 'labels'))
        )
    ]
    truth = COCO(str(annotations))
    reference = COCOeval(truth, truth.loadRes(results), 'bbox')
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    names = 'mAP mAP_50 mAP_75 mAP_s mAP_m mAP_l AR@1 AR@10 AR@100 AR_s@100 AR_m@100 AR_l@100'
    for name, value in zip(names.split(), reference.stats):
        assert values[f'coco/bbox_{name}'] == value, name
    assert 0 < values['coco/bar_precision'] < values['coco/disk_precision']


def _mask(x, y, width, height):
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


@pytest.mark.parametrize('given', ['file', 'samples'])
def test_boxes_and_masks_have_the_figures_of_mmdetections_own_metric(project, tmp_path, given):
    import torch
    from mmdet.evaluation import CocoMetric

    from lip_mmdet.engine.coco_metric import LIPCocoMetric

    random = np.random.default_rng(3)
    images, annotations, samples = [], [], []
    for image in range(1, 7):
        places = random.integers([0, 0, 8, 8], [50, 50, 45, 45], (3, 4)).tolist()
        labels = random.integers(0, 2, 3)
        images.append(dict(id=image, width=96, height=96, file_name=f'{image}.png'))
        instances = []
        for (x, y, w, h), label in zip(places, labels.tolist()):
            code = encode(np.asfortranarray(_mask(x, y, w, h)))
            code['counts'] = code['counts'].decode()
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, category_id=label, area=w * h,
                     bbox=[x, y, w, h], segmentation=code, iscrowd=0)
            )  # fmt: skip
            instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=label, mask=code))
        # The masks lie elsewhere than the boxes, and some classes are wrong.
        shifted = np.array(places) + random.integers(-4, 5, (3, 4)) * [1, 1, 0, 0]
        masks = [_mask(*np.maximum(place, 0) + [1, 0, -2, 0]) for place in shifted.tolist()]
        corners = np.concatenate([shifted[:, :2], shifted[:, :2] + shifted[:, 2:]], axis=1)
        found = dict(
            bboxes=torch.tensor(corners, dtype=torch.float32),
            scores=torch.tensor(random.random(3), dtype=torch.float32),
            mask_scores=torch.tensor(random.random(3), dtype=torch.float32),
            labels=torch.tensor(np.where(random.random(3) < 0.8, labels, 1 - labels)),
            masks=torch.tensor(np.array(masks), dtype=torch.bool),
        )
        samples.append(
            dict(img_id=image, ori_shape=(96, 96), pred_instances=found, instances=instances)
        )
    names = ('disk', 'bar')
    classes = [dict(id=i, name=name) for i, name in enumerate(names)]
    file = tmp_path / 'ann.json'
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=classes)))
    values = []
    for kind in (LIPCocoMetric, CocoMetric):
        metric = kind(
            ann_file=str(file) if given == 'file' else None,
            metric=['bbox', 'segm'],
            proposal_nums=(1, 10, 100),
            classwise=True,
        )
        metric.dataset_meta = dict(classes=names)
        metric.process({}, samples)
        values.append(metric.evaluate(len(samples)))
    ours, theirs = values
    assert theirs['coco/segm_mAP'] != theirs['coco/bbox_mAP'] and min(ours.values()) > -1.01
    assert 0.1 < theirs['coco/segm_mAP'] < 0.9
    assert {name: round(ours[name], 3) for name in theirs} == theirs


def test_the_metric_reports_zeros_without_detections(project):
    _, _, _, annotations = project
    samples = _predictions(annotations, lambda image_id: ([], [], []))
    metric = _metric(annotations)
    metric.process({}, samples)
    values = metric.evaluate(len(samples))
    assert values['coco/bbox_mAP'] == values['coco/bbox_mAP_m'] == values['coco/bbox_AR@100'] == 0
    # No small object exists.
    assert values['coco/bbox_mAP_s'] == -1


def test_the_metric_refuses_what_it_does_not_compute(project):
    from lip_mmdet.errors import InputError

    for options in (
        dict(metric='proposal'),
        dict(metric=['bbox', 'bbox']),
        dict(proposal_nums=(100, 10)),
        dict(metric_items=['AR@300']),
        dict(eval_backend='x'),
    ):
        with pytest.raises(InputError):
            _metric(project[3], **options)


@pytest.fixture(scope='module')
def val_run(project):
    """Run MMDetection's val with the metric; return its log and the folder with its scalars."""
    folder, config, checkpoint, annotations = project
    backends = ['LocalVisBackend']
    if importlib.util.find_spec('tensorboard'):
        backends.append('TensorboardVisBackend')
    code = f"""
import lip_mmdet.engine.coco_metric
from mmengine.config import Config
from mmengine.runner import Runner
config = Config.fromfile({str(config)!r})
config.work_dir = {str(folder / 'val')!r}
config.load_from = {str(checkpoint)!r}
config.vis_backends = [dict(type=name) for name in {backends}]
config.visualizer.vis_backends = config.vis_backends
config.val_evaluator = dict(type='LIPCocoMetric', ann_file={str(annotations)!r}, classwise=True)
config.merge_from_dict(
    dict(train_cfg=None, train_dataloader=None, optim_wrapper=None, param_scheduler=None)
)
Runner.from_cfg(config).val()
"""
    done = run(sys.executable, '-c', code, folder=folder)
    return done.stdout + done.stderr, folder / 'val'


SCALARS = ('coco/bbox_mAP', 'coco/bbox_mAP_m', 'coco/bbox_AR@100', 'coco/disk_precision')


def test_val_logs_the_breakdown(val_run):
    log, folder = val_run
    assert 'Average precision (%)' in log and 'By class (%)' in log
    assert 'bbox_mAP_copypaste' in log
    scalars = json.loads(next(folder.rglob('scalars.json')).read_text().splitlines()[-1])
    assert all(name in scalars for name in SCALARS)


def test_val_writes_the_figures_to_tensorboard(val_run):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next(val_run[1].rglob('events.out.tfevents*'))
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert set(SCALARS) <= set(accumulator.Tags()['scalars'])


def test_boxes_that_are_not_finite_match_nothing_and_thresholds_are_kept(project):
    _, _, _, annotations = project
    dataset = json.loads(annotations.read_text())
    nan = float('nan')

    def truth(image_id, extra=()):
        found = [a for a in dataset['annotations'] if a['image_id'] == image_id]
        boxes = [[x, y, x + w + 4, y + h] for x, y, w, h in (a['bbox'] for a in found)]
        return [*boxes, *extra], [0.9, 0.8] + [0.95] * len(extra), [0, 1] + [0] * len(extra)

    def values(boxes_of, **options):
        metric = _metric(annotations, **options)
        samples = _predictions(annotations, boxes_of)
        metric.process({}, samples)
        return metric.evaluate(len(samples))

    broken = [[nan, 0, 9, 9], [0, 0, float('inf'), 9]]
    assert values(lambda i: truth(i, broken)) == values(truth)
    # IoU is 40 / 44, so that a threshold of 0.9 is reached and 0.95 is not.
    assert values(truth, iou_thrs=[0.9, 0.95])['coco/bbox_mAP'] == pytest.approx(0.5)
    assert values(truth, iou_thrs=0.9)['coco/bbox_mAP'] == 1
    crowded = values(truth, proposal_nums=(1, 10, 500), metric_items=['mAP', 'AR@500'])
    assert set(crowded) == {'coco/bbox_mAP', 'coco/bbox_AR@500'}
