"""What leaves for other places: ONNX files that say what PyTorch says, checkpoints to hand on."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tiny_detector import ROOT, run_tool, write_tiny_project
from torch import nn

import lip_mmdet.plugin  # noqa: F401
from lip_mmdet.engine import export, export_detector
from lip_mmdet.engine.publish import publish
from lip_mmdet.errors import InputError


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """A config and a checkpoint of it, as a training run saves one."""
    folder = tmp_path_factory.mktemp('export')
    config = write_tiny_project(folder)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    for parameter in model.backbone.parameters():  # zeros of the start hide differences
        parameter.data += 0.1 * torch.randn_like(parameter)
    meta = dict(dataset_meta=dict(classes=('square', 'circle', 'triangle')), epoch=3, seed=1)
    checkpoint = folder / 'epoch_3.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta, optimizer={}), checkpoint)
    return config, checkpoint


@pytest.fixture(scope='module')
def exported(detector):
    """The features in PyTorch, the file, and what was measured."""
    pytest.importorskip('onnxruntime')
    config, checkpoint = detector
    features = export.load_features(Config.fromfile(config), checkpoint)
    out = config.parent / 'm.onnx'
    return features, out, export.export_onnx(features, out)


def test_an_exported_file_says_what_pytorch_says(exported):
    """At sizes and batches that the export has not tried itself."""
    features, out, differences = exported
    assert list(differences) == [f'stride{2**i}' for i in range(2, 7)]
    assert max(differences.values()) < 1e-4
    run = export.onnx_runner(out, threads=1)
    for size in ((3, 3, 96, 131), (1, 3, 333, 64)):
        images = torch.randn(size)
        with torch.no_grad():
            levels = features.detector.extract_feat(images)
        for value, expected in zip(run(images.numpy()), levels):
            scale = expected.abs().max().item()
            torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-5 * scale, rtol=0)


def test_a_file_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    features, model, _ = exported
    monkeypatch.setattr(torch.onnx, 'export', lambda *args, **_: shutil.copy(model, args[2]))
    monkeypatch.setattr(export, 'LARGEST_DIFFERENCE', 0.0)
    with pytest.raises(InputError, match=r'stride.* differs from PyTorch'):
        export.export_onnx(features, tmp_path / 'm.onnx')
    monkeypatch.setattr(export, 'LEAST_COSINE', 1.0)
    batches = [np.random.RandomState(i).randn(1, 3, 64, 96).astype(np.float32) for i in range(4)]
    with pytest.raises(InputError, match=r'stride.* in int8 has a cosine'):
        export.export_int8(model, tmp_path / 'm.int8.onnx', batches)
    with pytest.raises(InputError, match='at least 4 images'):
        export.export_int8(model, tmp_path / 'm.int8.onnx', batches[:3])
    assert not list(tmp_path.iterdir())


def test_weights_that_fit_in_part_are_refused(detector):
    config = Config.fromfile(detector[0])
    config.model.backbone.type = 'ResNet'
    with pytest.raises(InputError, match='fits the model in part'):
        export.load_features(config, detector[1])


def test_convolutions_alone_are_quantized(exported, detector, tmp_path):
    onnx = pytest.importorskip('onnx')
    features, model, _ = exported
    config = Config.fromfile(detector[0])
    images = export.read_images(config, features.detector, detector[0].parent / 'data' / 'images')
    batches = [batch.numpy() for batch, _ in images]
    assert batches[0].shape == (1, 3, 128, 128)
    with pytest.raises(InputError, match='holds no images'):
        export.read_images(config, features.detector, tmp_path)
    (tmp_path / 'b.png').write_bytes(b'no image')
    with pytest.raises(InputError, match=r'b\.png cannot be read as an image'):
        export.read_images(config, features.detector, tmp_path)
    out = model.with_suffix('.int8.onnx')
    cosines = export.export_int8(model, out, batches)
    assert min(cosines.values()) >= 0.99
    assert out.stat().st_size < 0.5 * model.stat().st_size
    graph = onnx.load(out).graph
    inputs = {n.input[1] for n in graph.node if n.op_type == 'DequantizeLinear'}
    assert inputs
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        reads = [producers[i].op_type for i in node.input if i in producers]
        if node.op_type == 'Conv':
            assert 'DequantizeLinear' in reads


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['faster-rcnn', 'retinanet'])
def test_a_whole_detector_finds_what_pytorch_finds(kind, detector, tmp_path, monkeypatch):
    """In batches of images smaller than the batch, which the export has not tried itself."""
    pytest.importorskip('onnxruntime')
    config = Config.fromfile(detector[0])
    network = export.load_features(config, detector[1]).detector
    if kind == 'retinanet':
        model = Config.fromfile(ROOT / 'configs/lip/retinanet_lip-r50_fpn_1x_coco.py').model
        model.backbone = config.model.backbone
        model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
        model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3)
        torch.manual_seed(0)
        network = MODELS.build(model).eval()
        network.bbox_head.retina_cls.bias.data.fill_(-2)
    for parameter in network.parameters():  # the same boxes everywhere are hard to tell apart
        parameter.data += 0.03 * torch.randn_like(parameter)
    images = export.read_images(config, network, detector[0].parent / 'data' / 'images')[:3]
    out = tmp_path / 'm.onnx'
    same = export_detector.export_detector(network, out, images)
    assert same['count'] > 30
    assert same['pixels'] < 1e-2
    run = export.onnx_runner(out, threads=1)
    batch = torch.randn(2, 3, 96, 160)
    sizes = [(96, 131), (77, 160)]
    samples = [DetDataSample(metainfo=dict(img_shape=size)) for size in sizes]
    with torch.no_grad():
        expected = network.predict(batch, samples, rescale=False)
    found = zip(*map(torch.from_numpy, run(batch.numpy(), sizes=np.array(sizes))))
    for values, sample in zip(found, expected):
        boxes, scores, labels = (value[values[1] > 0] for value in values)
        assert len(boxes) == len(sample.pred_instances) > 10
        torch.testing.assert_close(scores, sample.pred_instances.scores, atol=1e-5, rtol=0)
        assert (labels == sample.pred_instances.labels).float().mean() > 0.9  # but for ties
        torch.testing.assert_close(
            boxes.sum(0), sample.pred_instances.bboxes.sum(0), atol=1e-2, rtol=0
        )
    monkeypatch.setattr(torch.onnx, 'export', lambda *args, **_: shutil.copy(out, args[2]))
    monkeypatch.setattr(export_detector, 'LARGEST_SCORE_DIFFERENCE', -1)
    with pytest.raises(InputError, match=r'PyTorch finds \d+ boxes, .* 0 of them are the same'):
        export_detector.export_detector(network, tmp_path / 'other.onnx', images)
    assert not (tmp_path / 'other.onnx').exists()


def test_detectors_whose_boxes_are_made_otherwise_are_refused(detector):
    network = export.load_features(Config.fromfile(detector[0]), detector[1]).detector
    export_detector.Boxes(network)
    limit = network.rpn_head.test_cfg.pop('nms_pre')
    with pytest.raises(InputError, match='needs nms_pre above 0 in the test_cfg of RPNHead'):
        export_detector.Boxes(network)
    network.rpn_head.test_cfg.nms_pre = limit
    network.roi_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(InputError, match='NMS with an iou_threshold, not'):
        export_detector.Boxes(network)
    del network.roi_head
    with pytest.raises(InputError, match='not FasterRCNN with RPNHead'):
        export_detector.Boxes(network)


def test_published_checkpoints_hold_weights_and_classes(detector):
    config, checkpoint = detector
    done = run_tool('publish.py', checkpoint, folder=config.parent)
    path = next(checkpoint.parent.glob('epoch_3-*.pth'))
    assert f'wrote {path}' in done.stdout
    assert path.stem.split('-')[1] == hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    published = torch.load(path, weights_only=True)
    assert published.keys() == {'meta', 'state_dict'}
    assert published['meta']['dataset_meta']['classes'] == ('square', 'circle', 'triangle')
    expected = torch.load(checkpoint, weights_only=True)['state_dict']
    assert all(torch.equal(published['state_dict'][name], expected[name]) for name in expected)
    for other in (dict(weights=1), dict(state_dict={})):
        torch.save(other, checkpoint.with_name('other.pth'))
        with pytest.raises(InputError, match='holds no state_dict with weights'):
            publish(checkpoint.with_name('other.pth'), config.parent / 'other')


@pytest.mark.parametrize('wrapped', [False, True])
def test_images_have_the_channels_that_the_backbone_takes(wrapped):
    backbone = dict(type='ResNet', depth=18, in_channels=1)
    if wrapped:
        backbone = dict(type='LIPBackbone', backbone=backbone)
    assert export.image_channels(Config(dict(model=dict(backbone=backbone)))) == 1
    assert export.image_channels(Config(dict(model=dict(backbone=dict(type='CSPNeXt'))))) == 3


@pytest.mark.slow
def test_a_neck_that_takes_multiples_of_32_alone_and_images_of_one_channel(tmp_path):
    pytest.importorskip('onnxruntime')
    init_default_scope('mmdet')
    plain = dict(type='CSPNeXt', deepen_factor=0.17, widen_factor=0.125, norm_cfg=dict(type='BN'))
    neck = dict(type='CSPNeXtPAFPN', in_channels=[32, 64, 128], out_channels=16)
    backbone = MODELS.build(dict(type='LIPBackbone', backbone=plain))
    network = nn.Sequential(nn.Conv2d(1, 3, 1), backbone, MODELS.build(neck))
    differences = export.export_onnx(network.eval(), tmp_path / 'm.onnx', channels=1)
    assert list(differences) == ['stride8', 'stride16', 'stride32']
    assert max(differences.values()) < 1e-4
