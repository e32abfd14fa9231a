"""What freed memory becomes. Page faults are counted, not timed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import resource
import torch
from lip_mmdet.engine.memory import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults()
before, changed = page_faults(), keep_freed_memory()
# What else lives between the first blocks may keep them apart; in the end there is room for all.
after = [page_faults() for _ in range(12)][-1]
print(before, changed, after)
"""


def measure(**variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith('MALLOC_') and name != 'LD_PRELOAD'
    }
    done = subprocess.run(
        [sys.executable, '-c', CODE],
        capture_output=True,
        text=True,
        env=dict(environment, PYTHONPATH=str(ROOT), **variables),
    )
    assert done.returncode == 0, done.stderr
    before, changed, after = done.stdout.split()
    return int(before), changed == 'True', int(after)


needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc' or torch.cuda.is_available(), reason='glibc without a GPU'
)


@needs_glibc
def test_freed_memory_is_used_again():
    before, changed, after = measure()
    assert changed
    assert before > 100  # 4 times 64 MB, in pages of 4 KB or of 2 MB
    assert after < before / 10


@needs_glibc
def test_a_setting_of_the_users_own_stays():
    before, changed, after = measure(MALLOC_TOP_PAD_='131072')
    assert not changed
    assert after > before / 2
