"""The sizes of a batch's images, handed to backbones that mask the padding."""

from __future__ import annotations

from typing import Any

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS


@MODELS.register_module()
class SizedDetDataPreprocessor(DetDataPreprocessor):
    """MMDetection's preprocessor, which also notes each image's size on the batch.

    ``inputs.valid_sizes`` is then ``[(height, width), ...]`` in pixels, from each sample's
    ``img_shape``, for a backbone with ``mask_padding=True``. What a pipeline's own ``Pad`` added
    counts as image, for that changes ``img_shape``. Arguments as in ``DetDataPreprocessor``.
    """

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Normalize, pad and stack a batch, as MMDetection's does, and note the sizes."""
        data = super().forward(data, training)
        samples = data.get('data_samples')
        if samples is not None:
            data['inputs'].valid_sizes = [tuple(sample.img_shape[:2]) for sample in samples]
        return data
