"""Images with noise, the same noise each time."""

import zlib
from pathlib import Path

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadNoisyImage(LoadImageFromFile):
    """Load an image and add Gaussian noise to it, drawn from the name of its file.

    Args:
        deviation: standard deviation of the noise, in grey values of 255.
    """

    def __init__(self, *args, deviation: float, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.deviation = deviation

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        draw = np.random.RandomState(zlib.crc32(Path(results['img_path']).name.encode()))
        noise = self.deviation * draw.standard_normal(results['img'].shape)
        results['img'] = np.clip(results['img'] + noise, 0, 255).round().astype(np.uint8)
        return results
