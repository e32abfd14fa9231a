"""Backbone and neck of a detector as an ONNX file, in float32 or with convolutions in int8.

A file is written only after it was run beside PyTorch and came close enough. Needs the packages of
``pip install lip-mmdet[export]``.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from lip_mmdet.engine.detector import image_files, load_detector
from lip_mmdet.errors import InputError
from lip_mmdet.files import replace_on_success

# Number, height and width of images at which a file is compared with PyTorch. Necks that cannot
# take the odd ones get the multiples of 32 above them.
SIZES = ((1, 256, 320), (2, 203, 317), (1, 480, 352))
LARGEST_DIFFERENCE = 1e-4  # over the largest value of the level
LEAST_COSINE = 0.99


class Features(nn.Module):
    """What a detector sees in a batch of normalised images, (N, C, H, W): a tuple of its levels."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector.extract_feat(images))


def load_features(config: Config, checkpoint: str | os.PathLike) -> Features:
    """Build the detector of a config with its weights, in eval mode on the CPU.

    Raises:
        InputError: the checkpoint is missing, unusable, or fits the config in part.
    """
    return Features(load_detector(config, checkpoint)).eval()


def image_channels(config: Config) -> int:
    """Return how many channels images have that the backbone of a detector's config takes."""
    backbone = config.model.backbone
    return backbone.get('backbone', backbone).get('in_channels', 3)  # that within a LIPBackbone


def export_onnx(features: nn.Module, out: str | os.PathLike, channels: int = 3) -> dict[str, float]:
    """Write backbone and neck for any batch, height and width.

    Args:
        features: of a detector, or a backbone; its input is the normalised batch that
            ``extract_feat`` takes.
        out: the file; its input is ``images``, its outputs are named by their strides.
        channels: of the images.

    Returns:
        The largest difference to PyTorch over :data:`SIZES`, over the largest value, by level.

    Raises:
        InputError: a package is missing, PyTorch is too old, or a level differs too much.
    """
    require_packages()
    images = torch.zeros(2, channels, 256, 384)
    with torch.no_grad():
        names = _level_names(images, features(images))
    differences = dict.fromkeys(names, 0.0)
    generator = torch.Generator().manual_seed(0)
    with written_onnx(features, (images,), out, input_names=['images'], output_names=names) as run:
        for number, *sides in SIZES:
            batch, levels = _levels_at((number, channels, *sides), features, generator)
            for name, value, expected in zip(names, run(batch.numpy()), levels):
                scale = expected.abs().max()
                difference = ((torch.from_numpy(value) - expected).abs().max() / scale).item()
                differences[name] = max(differences[name], difference)
        worst = max(differences, key=differences.get)
        if not differences[worst] <= LARGEST_DIFFERENCE:
            raise InputError(
                f'{out} was not written: {worst} differs from PyTorch by {differences[worst]:.1e} '
                f'of its largest value, more than {LARGEST_DIFFERENCE:.0e}'
            )
    return differences


@contextmanager
def written_onnx(
    network: nn.Module, inputs: Sequence[Tensor], out: str | os.PathLike, **options: object
) -> Iterator[Callable]:
    """Give what runs a network as an ONNX file; keep the file if the block succeeds.

    Args:
        network: its first input is images, (N, C, H, W); each has a row for each image.
        inputs: examples; every N, H and W will do later.
        out: the file to write.
        options: of PyTorch's exporter.
    """
    batch, dim = torch.export.Dim('batch'), torch.export.Dim
    dynamic = [{0: batch} for _ in inputs]
    # Less works, too; but PyTorch does not promise that of levels that shrink to one pixel.
    dynamic[0].update({2: dim('height', min=129), 3: dim('width', min=129)})
    # It names every optional package that it does not find.
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with replace_on_success(out) as temporary, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of PyTorch's to its own exporter
        torch.onnx.export(
            network,
            tuple(inputs),
            str(temporary),
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple(dynamic),
            verbose=False,
            **options,
        )
        yield onnx_runner(temporary)


def export_int8(
    model: str | os.PathLike, out: str | os.PathLike, batches: Sequence[np.ndarray]
) -> dict[str, float]:
    """Quantize the convolutions of an exported file, each channel's weights on their own.

    Other operators stay in float32, for with all of them in int8 LIP's features are ruined.

    Args:
        model: from :func:`export_onnx`.
        out: the file to write.
        batches: normalised images, (1, 3, H, W) float32; every fourth is held out, the others
            calibrate the activations' ranges.

    Returns:
        The least cosine between the features of both files, over the images held out, by level.

    Raises:
        InputError: fewer than four images, or a level is under :data:`LEAST_COSINE`.
    """
    require_packages()
    from onnxruntime import quantization

    if len(batches) < 4:
        raise InputError(
            f'--int8 needs at least 4 images, one of them to judge; got {len(batches)}'
        )
    held_out = batches[3::4]
    calibration = iter([b for i, b in enumerate(batches) if i % 4 != 3])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(calibration, None)
            return None if batch is None else {'images': batch}

    with replace_on_success(out) as temporary:
        logging.disable(logging.WARNING)  # its advice to run a step that changes nothing here
        try:
            quantization.quantize_static(
                str(model),
                str(temporary),
                Reader(),
                op_types_to_quantize=['Conv'],
                per_channel=True,
            )
        finally:
            logging.disable(logging.NOTSET)
        run, run_float = onnx_runner(temporary), onnx_runner(model)
        cosines = dict.fromkeys(run.names, 1.0)
        for batch in held_out:
            for name, value, expected in zip(run.names, run(batch), run_float(batch)):
                norms = np.linalg.norm(value) * np.linalg.norm(expected)
                cosine = float(np.vdot(value, expected) / norms)
                cosines[name] = min(cosines[name], cosine)
        worst = min(cosines, key=cosines.get)
        if not cosines[worst] >= LEAST_COSINE:
            raise InputError(
                f'{out} was not written: {worst} in int8 has a cosine of {cosines[worst]:.3f} to '
                f'float32 on the images held out, under {LEAST_COSINE}'
            )
    return cosines


def read_images(
    config: Config, detector: nn.Module, folder: str | os.PathLike
) -> list[tuple[Tensor, list]]:
    """Read a folder's images, in order of name, as the config's test pipeline and model do.

    Returns:
        Of each a normalised batch of one, (1, 3, H, W) float32, and its data samples.

    Raises:
        InputError: no such folder, no images in it, or one that cannot be read.
    """
    init_default_scope(config.get('default_scope') or 'mmdet')
    steps = get_test_pipeline_cfg(config.copy())
    pipeline = Compose([step for step in steps if 'LoadAnnotations' not in str(step['type'])])
    images = []
    for number, path in enumerate(image_files([folder])):
        try:
            data = pseudo_collate([pipeline(dict(img_path=str(path), img_id=number))])
        except Exception as error:  # of whatever reads images here
            raise InputError(f'{path} cannot be read as an image: {error}') from error
        data = detector.data_preprocessor(data, training=False)
        images.append((data['inputs'].float(), data['data_samples']))
    return images


def onnx_runner(path: str | os.PathLike, threads: int = 0) -> Callable[[np.ndarray], list]:
    """Return what runs an exported file on a batch; its ``names`` are those of the outputs.

    Args:
        path: the file.
        threads: of the CPU; 0 leaves that to onnxruntime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(images: np.ndarray, **others: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(images=images, **others))

    run.names = [output.name for output in session.get_outputs()]
    return run


def _levels_at(
    size: tuple[int, ...], features: nn.Module, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return random images of a size, or of the multiples of 32 above it, and their levels."""
    batch = torch.randn(size, generator=generator)
    with torch.no_grad():
        try:
            return batch, features(batch)
        except RuntimeError:  # maps that were halved and doubled are not as large as before
            size = (*size[:2], *(-(-side // 32) * 32 for side in size[2:]))
            batch = torch.randn(size, generator=generator)
            return batch, features(batch)


def _level_names(images: Tensor, levels: Sequence[Tensor]) -> list[str]:
    strides = [round(images.shape[3] / level.shape[3]) for level in levels]
    return [f'stride{s}' if strides.count(s) == 1 else f'level{i}' for i, s in enumerate(strides)]


def require_packages() -> None:
    """Raise InputError where a package that the export needs is missing, or PyTorch is too old."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'export needs {error.name}: pip install "lip-mmdet[export]", or pip install onnx '
            'onnxscript onnxruntime'
        ) from error
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 6):
        raise InputError(f'export needs torch >= 2.6, not {torch.__version__}')
