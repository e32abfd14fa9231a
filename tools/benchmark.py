"""Time the operators, the backbones, whole detectors; see ``docs/performance.md``.

`operators` needs torch alone; `backbones` and `detectors` need MMDetection.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == '__main__':
    from lip_mmdet.benchmark.command import main
    from lip_mmdet.command_line import run_tool

    run_tool(main)
