"""What the benchmarks of training share; needs torch alone, so that they run where Ray and MLflow are missing."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.append(str(Path(__file__).parents[2]))  # where the package is not installed; import this before it

PACKAGES = ("torch", "torchvision", "numpy")  # whose versions a table of training is measured with
Times = dict[str, list[float]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has: ``--device``, ``--threads``, ``--repetitions``."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--repetitions", type=int, default=7)
    return made


def wait(device: torch.device | str) -> None:
    """Until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: torch.device | str) -> float:
    """Seconds of one call, to the end of what it starts on the device."""
    wait(device)
    began = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - began


def interleaved(
    sides: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device | str, *, warm_up: int = 1
) -> Times:
    """Seconds of each side's calls; the sides take turns, every other time in the opposite order."""
    for function in sides.values():
        for _ in range(warm_up):
            function()
    times: Times = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in sorted(sides, reverse=repetition % 2 == 1):
            times[name].append(timed(sides[name], device))
    return times


def peak_memory(function: Callable[[], object], device: torch.device | str) -> int:
    """The most bytes that a call's tensors take at a time, beyond those that there were before it.

    On the CPU what a library asks of the system itself, such as oneDNN's scratch space, does not count.
    """
    if torch.device(device).type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        wait(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    waiting, events = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            events.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    sizes: dict[int, int] = {}
    now = most = 0
    for _, address, size in sorted(events):
        if size > 0:
            sizes[address] = size
            now += size
            most = max(most, now)
        else:
            now -= sizes.pop(address, 0)  # what was there before is not ours
    return most


class Traffic(TorchDispatchMode):
    """Counts the operations of a block, views excepted, and the bytes they read and write, each tensor once in each."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.operations += 1
        return result


def recorded(function: Callable[[], object], device: torch.device | str) -> Callable[[], object]:
    """``function``; on CUDA as a graph, as `tune_lt.training.step` records it, or as it is if that fails."""
    if torch.device(device).type != "cuda":
        return function
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries and optimizers set themselves up
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=aside):
            function()
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # a recording that fails at its end leaves its own stream behind
        print(f"Not recorded as a graph: {str(error).splitlines()[0]}\n")
        return function
    return graph.replay


def ratios(times: Times, side: str, reference: str) -> list[float]:
    """How many times as long ``side`` took as ``reference``, repetition by repetition."""
    return [mine / other for mine, other in zip(times[side], times[reference], strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def excess(values: Sequence[float]) -> str:
    """Ratios as per cent above one: median (quartiles), which one disturbed repetition does not move."""
    low, middle, high = statistics.quantiles([100 * (value - 1) for value in values], n=4)
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def heading(device: torch.device | str = "cpu", threads: int | None = None, packages: Sequence[str] = PACKAGES) -> str:
    """The lines that say what a table was measured on; without ``threads`` on all cores."""
    place = torch.device(device)
    name = f"{threads} CPU threads" if threads else f"{os.cpu_count()} CPU cores"
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else name
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return (
        f"Command: `{' '.join(['python', *sys.argv])}`. Date: {datetime.date.today()}. Device: {name}, "
        f"{platform.machine()}; load average at the start (1, 5, 15 minutes): {load}. "
        f"Versions: Python {platform.python_version()}, {versions}.\n"
    )
