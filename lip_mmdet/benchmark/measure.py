"""How something is timed: cases take turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Callable, Sequence

import torch

PROCESSES = 3  # of which peak memory is the median
# On a GPU, of one timed run: calls are queued while earlier ones run, as within a network.
QUEUED_CALLS = 20


def interleave(
    cases: dict[str, Callable[[], object]],
    repeats: int,
    device: str = 'cpu',
    queued: int = QUEUED_CALLS,
) -> dict[str, list[float]]:
    """Run all cases once for warmth, then ``repeats`` times in turn.

    Args:
        cases: name -> what to run.
        repeats: timed runs of each.
        device: ``'cpu'`` or ``'cuda'``, where a run is of several calls.
        queued: how many.

    Returns:
        Seconds of one call in each run, by name.
    """
    calls = 1 if device == 'cpu' else queued
    seconds = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, run in cases.items():
            synchronize()
            started = time.perf_counter()
            for _ in range(calls):
                run()
            synchronize()
            if turn > 0:
                seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summarize(seconds: dict[str, list[float]], baseline: str) -> list[dict]:
    """Return one row for each case: median, fastest, and median over the baseline's."""
    base = statistics.median(seconds[baseline])
    return [
        dict(
            case=name,
            milliseconds=1e3 * statistics.median(times),
            fastest=1e3 * min(times),
            ratio=statistics.median(times) / base,
        )
        for name, times in seconds.items()
    ]


def measure(
    build: Callable[..., Callable[[], object]],
    names: Sequence[str],
    options: tuple,
    repeats: int,
    device: str,
    memory: bool,
    queued: int = QUEUED_CALLS,
) -> list[dict]:
    """Time what ``build(name, *options)`` returns for each name, in turns; ResNet is the measure.

    Args:
        build: a function of a module; see :func:`peak_memory`.
        names: of the cases, ``'ResNet'`` among them.
        options: of all of them.
        repeats, device, queued: as in :func:`interleave`.
        memory: measure peak memory too.

    Returns:
        One row for each: milliseconds, ratio to ResNet, peak memory and its ratio.
    """
    cases = {name: build(name, *options) for name in names}
    rows = summarize(interleave(cases, repeats, device, queued), baseline='ResNet')
    del cases
    if memory:
        peaks = {name: peak_memory(build, (name, *options), device) for name in names}
        for row in rows:
            peak = peaks[row['case']]
            row.update(peak_megabytes=peak, peak_ratio=peak / peaks['ResNet'])
    return rows


def peak_memory(build: Callable, arguments: tuple, device: str) -> float:
    """Return the peak memory in MB that ``build(*arguments)()`` takes.

    On a GPU, what the allocator held at most. On the CPU, by how much the resident memory of a
    fresh process rose while it built and ran the case once: the median of several processes, for
    what malloc makes of the same calls differs by a tenth.

    Args:
        build: a function of a module, for another process must find it; returns what to run.
        arguments: its arguments.
        device: ``'cpu'`` or ``'cuda'``.
    """
    if device != 'cpu':
        gc.collect()
        before = torch.cuda.memory_allocated()
        run = build(*arguments)
        run()  # what is compiled, or chosen, at first may take more
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    return statistics.median(_peak_of_a_process(build, arguments) for _ in range(PROCESSES))


def _peak_of_a_process(build: Callable, arguments: tuple) -> float:
    context = multiprocessing.get_context('spawn')
    queue = context.SimpleQueue()
    process = context.Process(target=_resident, args=(queue, build, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f'measuring the memory of {arguments} failed: {process.exitcode}')
    return queue.get() / 1e6


def _resident(queue, build: Callable, arguments: tuple) -> None:
    if build.__module__.endswith('backbones'):
        # What importing takes is not the case's.

        import lip_mmdet.backbones  # noqa: F401
    before = _status('VmRSS')
    build(*arguments)()
    # Not getrusage's maximum, which a process inherits from the one that started it.
    queue.put(_status('VmHWM') - before)


def _status(name: str) -> int:
    """Read one of Linux's figures of this process, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {name}')
