"""The machine that a study runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """Return what trains here, in words."""
    cores = f'{_processor()}, {os.cpu_count()} cores'
    return f'{torch.cuda.get_device_name()}; {cores}' if torch.cuda.is_available() else cores


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
