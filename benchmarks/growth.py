"""How the time per trial, the driver's memory and the time of a restart grow with the number of trials.

Each size is a fresh study of that many trials in a process of its own, through the whole path of ours (driver, journal,
SQLite store, a Ray of its own); only the trainable is replaced, by one that sleeps a few milliseconds and reports,
twice. Then a second process runs the same study with one trial more: it reads the history, rebuilds the search and
starts Ray, and is timed from the call until that trial begins. What of that is not growth shows beside it: a fresh
study's time until its first trial begins.

Time per trial: from after the first one ended until the store has the last; "last tenth": between the ends of the last
tenth of the trials, which is what a trial costs at that size. Memory: of the driver's process alone, PSS after the
first trial and after the last, and the peak of its RSS, of which libraries are the most.

    python benchmarks/growth.py                                # 100, 1,000, 5,000 by random search, TPE at 100, 1,000
    python benchmarks/growth.py --random 100 1000 --tpe        # what takes 5 minutes on two cores
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import common, timing

REPORTS = 2
SLEEP_SECONDS = 0.003
SMALL = 500  # below that many trials start-up noise is seen in the time per trial: repeat, and take the median
TARGET = 2.0
MB = 2**20


@dataclass
class Grown:
    """What one study of some size took, in seconds and bytes."""

    per_trial: float
    last_tenth: float
    until_first: float
    until_next: float  # after a restart
    memory_first: int
    memory_last: int
    peak: int
    wall: float


def sleep_and_report(config: dict[str, Any], **shared: Any) -> None:
    """In place of the product's trainable."""
    from ray import tune

    for report in common.planned_reports(config["planned"]):
        time.sleep(SLEEP_SECONDS)
        tune.report(report)


def memory() -> int:
    """What this process holds now: its PSS where the system tells, else its RSS."""
    import psutil

    full = psutil.Process().memory_full_info()
    return int(getattr(full, "pss", full.rss))


def peak_memory() -> int:
    """The most RSS this process has had since its start; Linux only, 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def grow(folder: Path, trials: int, sampler: str) -> tuple[common.Times, int, int, int]:
    """A study of so many trials: its times, memory after the first and the last trial, and at the peak."""
    marks: dict[int, int] = {}

    def mark(ended: int) -> None:
        if ended in (1, trials):
            marks[ended] = memory()

    times = common.run_ours(folder, trials, reports=REPORTS, sampler=sampler, trainable=sleep_and_report, on_end=mark)
    return times, marks[1], marks[trials], peak_memory()


def restart(folder: Path, trials: int, sampler: str) -> common.Times:
    """The same study with one trial more."""
    times = common.run_ours(folder, trials + 1, reports=REPORTS, sampler=sampler, trainable=sleep_and_report)
    if len(times.ended) != 1:
        raise RuntimeError(f"{len(times.ended)} trials ran after the restart, not the one that was missing")
    return times


def measure(folder: Path, trials: int, sampler: str) -> Grown:
    times, first, last, peak = common.in_process(grow, folder, trials, sampler)
    again = common.in_process(restart, folder, trials, sampler)
    tenth = max(2, trials // 10)
    return Grown(
        per_trial=times.per_trial,
        last_tenth=(times.ended[-1] - times.ended[-tenth]) / (tenth - 1),
        until_first=times.started[0] - times.began,
        until_next=again.started[0] - again.began,
        memory_first=first,
        memory_last=last,
        peak=peak,
        wall=times.wall,
    )


def median(grown: list[Grown]) -> Grown:
    return Grown(**{name: statistics.median(getattr(one, name) for one in grown) for name in vars(grown[0])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, nargs="*", default=[100, 1000, 5000], help="sizes by random search")
    parser.add_argument("--repetitions", type=int, default=3, help=f"of sizes below {SMALL}")
    parser.add_argument("--tpe", type=int, nargs="*", default=[100, 1000], help="sizes by TPE")
    arguments = parser.parse_args()
    print(timing.heading(packages=common.PACKAGES))
    cases = [("random", size) for size in arguments.random] + [("tpe", size) for size in arguments.tpe]
    results: dict[tuple[str, int], Grown] = {}
    rows = []
    with common.workplace() as fresh:
        for sampler, size in cases:
            repetitions = arguments.repetitions if size < SMALL else 1
            one = results[sampler, size] = median([measure(fresh(), size, sampler) for _ in range(repetitions)])
            print(sampler, size, one, file=sys.stderr)
            rows.append(
                [
                    sampler,
                    f"{size:,}",
                    f"{1000 * one.per_trial:.0f}",
                    f"{1000 * one.last_tenth:.0f}",
                    f"{one.memory_first / MB:.0f}",
                    f"{one.memory_last / MB:.0f}",
                    f"{(one.memory_last - one.memory_first) / 1024 / size:.0f}",
                    f"{one.peak / MB:.0f}",
                    f"{one.until_first:.1f}",
                    f"{one.until_next:.1f}",
                    f"{one.wall:.0f}",
                ]
            )
    header = ["sampler", "trials", "ms a trial", "ms, last tenth", "PSS after the first, MiB", "after the last, MiB"]
    header += ["KiB a trial", "peak RSS, MiB", "s to the first trial", "s to the next after a restart", "wall, s"]
    print(timing.table(header, rows))
    for sampler in dict.fromkeys(sampler for sampler, _ in cases):
        sizes = sorted(size for other, size in cases if other == sampler)
        small, large = results[sampler, sizes[0]], results[sampler, sizes[-1]]
        if len(sizes) > 1:
            print(
                f"{sampler}: a trial of {sizes[-1]:,} takes {large.per_trial / small.per_trial:.2f} times one of "
                f"{sizes[0]:,}, of the last tenth {large.last_tenth / small.last_tenth:.2f} times"
                + (f" (target: at most {TARGET:.0f})." if sampler == "random" else ".")
            )


if __name__ == "__main__":
    main()
