"""What LIP looks at in a detector's images: maps as arrays, for the tool, the demo and the hook.

What draws is imported where it is used, for a config's plugin imports this file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Iterator

import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from lip_mmdet.errors import InputError
from lip_mmdet.layers import ImportanceMap, record_importance

if TYPE_CHECKING:
    from lip_mmdet.visualization.importance import ImportanceView

SHOWN_CHANNELS = 3


def importance_views(
    model: nn.Module, images: Iterable[Path], min_score: float = 0.3
) -> Iterator[tuple[Path, ImportanceView | None]]:
    """Run a detector of :func:`~lip_mmdet.engine.detector.load_detector` over image files.

    Args:
        model: the detector, with LIP somewhere.
        images: files.
        min_score: of the detections that are shown.

    Yields:
        Each file and what there is to see, None where the file is no image.

    Raises:
        InputError: no LIP layer runs in the model.
    """
    from mmdet.apis import inference_detector

    for path in images:
        pixels = read_image(path)
        if pixels is None:
            yield path, None
            continue
        with record_importance(model) as maps:
            sample = inference_detector(model, str(path))
        if not maps:
            raise InputError('no LIP layer ran: importance maps need a detector with LIP')
        yield path, view_of(pixels, sample, maps, 0, model.dataset_meta['classes'], min_score)


def read_image(path: str | Path) -> np.ndarray | None:
    """Read a file to RGB pixels, (height, width, 3), uint8; None if it is no image."""
    try:
        return mmcv.imread(str(path), channel_order='rgb')
    except Exception:  # the decoder's own kinds of errors, and the system's
        return None


def view_of(
    pixels: np.ndarray,
    sample: DetDataSample,
    maps: dict[str, ImportanceMap],
    index: int,
    classes: tuple[str, ...],
    min_score: float = 0.3,
) -> ImportanceView:
    """Gather what was recorded of one image.

    Args:
        pixels: the image as it was read, RGB.
        sample: the detector's result, with the metainfo of its input.
        maps: of the batch that the image was in.
        index: its place in the batch.
        classes: names.
        min_score: detections below it are left out.
    """
    from lip_mmdet.visualization.importance import ImportanceView, cut_padding

    meta = sample.metainfo
    canvas = meta.get('batch_input_shape') or meta['img_shape']
    # What the pipeline itself may have padded to is no content either.
    scale_x, scale_y = (meta.get('scale_factor') or (1.0, 1.0))[:2]
    content = tuple(
        min(side * scale, whole)
        for side, scale, whole in zip(pixels.shape[:2], (scale_y, scale_x), canvas)
    )
    found = sample.pred_instances.cpu()
    found = found[found.scores >= min_score]
    x1, y1, x2, y2 = np.asarray(found.bboxes, dtype=float).reshape(-1, 4).T
    names = [classes[i] if i < len(classes) else str(i) for i in found.labels.tolist()]
    first = next(iter(maps.values())).logit[index].float()
    spread = first.flatten(1).std(1)
    channels = spread.topk(min(SHOWN_CHANNELS, len(spread))).indices.tolist()
    return ImportanceView(
        image=pixels,
        boxes=np.stack([x1, y1, x2 - x1, y2 - y1], axis=1),
        labels=[f'{name} {score:.2f}' for name, score in zip(names, found.scores.tolist())],
        levels={
            label: cut_padding(values, canvas, content)
            for label, values in _levels(maps, index, canvas)
        },
        channels={
            f'first LIP, channel {c}': cut_padding(first[c].cpu().numpy(), canvas, content)
            for c in channels
        },
    )


def _levels(
    maps: dict[str, ImportanceMap], index: int, canvas: tuple[int, int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the mean selectivity, in percent of the largest, of the LIPs at each output size."""
    sizes: dict[tuple, list] = {}
    for name, seen in maps.items():
        percent = 100 * seen.selectivity[index].float().cpu().numpy() / max(seen.largest, 1e-9)
        sizes.setdefault(percent.shape, []).append((name, percent))
    for size, members in sorted(sizes.items(), reverse=True):
        places = sorted({_place(name) for name, _ in members})
        if len(places) > 1:
            places = sorted({place.rpartition('.')[0] or place for place in places})
        named = places[0] + (f' and {len(places) - 1} more' if len(places) > 1 else '')
        # A canvas need not be a multiple of its strides, which are powers of two.
        stride = 2 ** round(math.log2(max(canvas) / max(size)))
        label = f'stride {stride} ({named})'
        yield label, np.mean([percent for _, percent in members], axis=0)


def _place(name: str) -> str:
    """Return where in a backbone, given or within LIPBackbone, a LIP of that name stands."""
    while name.startswith('backbone.'):
        name = name[len('backbone.') :]
    name = name.rsplit('.logit', 1)[0]
    return name[: -len('.lip')] if name.endswith('.lip') else name


@HOOKS.register_module()
class LIPVisualizationHook(Hook):
    """Show at validation what LIP looks at, in whatever MMEngine's visualizer writes to.

    In a config: ``default_hooks = dict(importance=dict(type='LIPVisualizationHook'))``;
    TensorBoard, wandb and others are the ``vis_backends`` of the config's visualizer.

    Args:
        num_images: the first images of each validation, of the first process.
        min_score: detections below it are left out.
    """

    def __init__(self, num_images: int = 4, min_score: float = 0.3) -> None:
        self.num_images = num_images
        self.min_score = min_score
        self._drawn = 0
        self._recording = None

    def before_val_epoch(self, runner: Runner) -> None:
        self._drawn = 0

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if runner.rank == 0 and self._drawn < self.num_images:
            self._recording = record_importance(runner.model)
            self._maps = self._recording.__enter__()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=()) -> None:
        if self._recording is None:
            return
        from lip_mmdet.visualization.importance import draw_importance, draw_pixels

        self._recording.__exit__(None, None, None)
        maps, self._recording, self._maps = self._maps, None, None
        classes = runner.val_dataloader.dataset.metainfo.get('classes') or ()
        for index, sample in enumerate(outputs[: self.num_images - self._drawn]):
            pixels = read_image(sample.img_path) if 'img_path' in sample else None
            if not maps or pixels is None:
                continue
            view = view_of(pixels, sample, maps, index, classes, self.min_score)
            runner.visualizer.add_image(
                f'importance_{self._drawn}', draw_pixels(draw_importance(view)), step=runner.iter
            )
            self._drawn += 1
