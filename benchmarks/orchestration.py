"""How many trivial trials a second go through the whole path with tracking, and what recording a report costs.

Ours is `tune_lt.run.driver.run_study` with its journal and store, only the trainable replaced by one that reports at
once; stock is `Tuner` with `OptunaSearch` and `MLflowLoggerCallback`, its other settings as they come, without and with
`reuse_actors`. Both: the same reports, two trials at once, a random sampler over the same two dimensions, no scheduler,
a fresh SQLite store, a process and a Ray of their own. The sides take turns within each repetition.

A rate counts from after the first trial ended (so that starting Ray and the first workers does not count) until the
store has the last one (so that what ours still buffers does). The cost of a report is that of a trial with 33 reports
less that of one with 1, over 32; the tracking part of it is that with tracking less that without.

    python benchmarks/orchestration.py                # both parts, about 15 minutes on two cores
    python benchmarks/orchestration.py --part rates --repetitions 1
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lib import common, timing

SIDES = {"ours": "ours", "reuse": "stock, reuse_actors=True", "stock": "stock"}
RATE_REPORTS = (1, 8)
COST_REPORTS = (1, 33)
TARGETS = {"stock": 10.0, "reuse": 3.0}
TARGET_COST = 0.05


def trivial(config: dict[str, Any], count: int) -> None:
    """The stock side's trainable: the same reports as ours."""
    from ray import tune

    for report in common.reports(count, config["loss"]["alpha"], config["loss"]["gamma"]):
        tune.report(report)


def run_stock(folder: Path, trials: int, *, reports: int, tracked: bool, reuse: bool) -> common.Times:
    """The same search with what Ray ships."""
    import logging

    import optuna
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    times = common.Times()

    class Clock(tune.Callback):
        def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
            times.ended.append(time.monotonic())

    common.for_workers(trivial)
    os.chdir(folder)
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    record = [MLflowLoggerCallback(tracking_uri=common.store_uri(folder), experiment_name=common.NAME)]
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trivial, count=reports), {"cpu": 1}),
        param_space={"loss": {"alpha": tune.uniform(0.3, 1.0), "gamma": tune.uniform(0.0, 1.5)}},
        tune_config=tune.TuneConfig(
            num_samples=trials,
            search_alg=OptunaSearch(metric="val/balanced", mode="max", sampler=optuna.samplers.RandomSampler(seed=0)),
            max_concurrent_trials=common.CONCURRENT,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "results"),
            verbose=0,
            callbacks=[*(record if tracked else []), Clock()],  # the clock last: it hears when the record is made
        ),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # verbose=0 does not silence all of it
        tuner.fit()
    times.recorded = times.ended[-1]
    ray.shutdown()
    times.over = time.monotonic()
    return times


def measure(folder: Path, side: str, trials: int, reports: int, tracked: bool) -> common.Times:
    if side == "ours":
        times = common.run_ours(folder, trials, reports=reports, tracked=tracked)
    else:
        times = run_stock(folder, trials, reports=reports, tracked=tracked, reuse=side == "reuse")
    check(folder, trials, reports, tracked)
    return times


def check(folder: Path, trials: int, reports: int, tracked: bool) -> None:
    """Both sides must have recorded every trial and every report, or their times mean nothing."""
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    client = MlflowClient(common.store_uri(folder))
    experiment = client.get_experiment_by_name(common.NAME)
    runs: list[Run] = client.search_runs([experiment.experiment_id], max_results=50_000) if experiment else []
    cells = [run for run in runs if "loss/alpha" in run.data.params or "loss" in run.data.params]
    wanted = trials if tracked else 0
    if len(cells) != wanted or any(run.info.status != "FINISHED" for run in cells):
        raise RuntimeError(f"{len(cells)} trials in the store, {wanted} expected")
    for run in cells[:3]:
        points = client.get_metric_history(run.info.run_id, "val/balanced")
        if len({point.step for point in points}) != reports:
            raise RuntimeError(f"{len(points)} reports in the store, {reports} expected")


def take_turns(
    arguments: argparse.Namespace, cases: list[tuple[str, int, bool]], trials: dict[str, int]
) -> dict[tuple[str, int, bool], list[common.Times]]:
    """Every case (side, reports, tracked) once in each repetition."""
    times: dict[tuple[str, int, bool], list[common.Times]] = {case: [] for case in cases}
    with common.workplace() as fresh:
        for repetition in range(arguments.repetitions):
            for case in cases[:: -1 if repetition % 2 else 1]:
                side, reports, tracked = case
                took = common.in_process(measure, fresh(), side, trials[side], reports, tracked)
                times[case].append(took)
                print(f"{case} {took.per_trial * 1000:.1f} ms a trial, {took.wall:.1f} s in all", file=sys.stderr)
    return times


def rates(arguments: argparse.Namespace) -> None:
    trials = {"ours": arguments.ours, "reuse": arguments.reuse, "stock": arguments.stock}
    cases = [(side, reports, True) for reports in arguments.reports for side in SIDES]
    times = take_turns(arguments, cases, trials)
    for reports in arguments.reports:
        per_second = {side: [1 / took.per_trial for took in times[side, reports, True]] for side in SIDES}
        rows = []
        for side, name in SIDES.items():
            ratio = target = "—"
            if side != "ours":
                ratio = timing.spread([a / b for a, b in zip(per_second["ours"], per_second[side], strict=True)], 1)
                target = f"{TARGETS[side]:.0f}"
            wall = [took.wall for took in times[side, reports, True]]
            rows.append(
                [name, str(trials[side]), timing.spread(per_second[side]), timing.spread(wall, 1), ratio, target]
            )
        print(
            f"\nTrials with {reports} report{'s' if reports > 1 else ''}, tracked: median (least to most) of ", end=""
        )
        print(f"{arguments.repetitions} interleaved repetitions\n")
        print(timing.table(["side", "trials", "trials/s", "wall, s", "ours is faster by", "target"], rows))


def costs(arguments: argparse.Namespace) -> None:
    trials = {"ours": arguments.ours_long, "reuse": arguments.reuse_long}
    few, many = COST_REPORTS
    cases = [(side, reports, tracked) for reports in COST_REPORTS for tracked in (True, False) for side in trials]
    times = take_turns(arguments, cases, trials)
    tracking: dict[str, float] = {}
    rows = []
    for side, count in trials.items():
        seconds = {
            tracked: [
                (long.per_trial - short.per_trial) / (many - few)
                for long, short in zip(times[side, many, tracked], times[side, few, tracked], strict=True)
            ]
            for tracked in (True, False)
        }
        part = [1000 * (a - b) for a, b in zip(seconds[True], seconds[False], strict=True)]
        tracking[side] = statistics.median(part)
        both = [timing.spread([1000 * value for value in seconds[tracked]], 1) for tracked in (True, False)]
        rows.append([SIDES[side], str(count), *both, timing.spread(part)])
    print(f"\nCost of a report in ms: median (least to most) of {arguments.repetitions} repetitions\n")
    print(timing.table(["side", "trials", "with tracking", "without", "tracking's part"], rows))
    share = tracking["ours"] / tracking["reuse"]
    print(f"Tracking a report costs ours {share:.1%} of what it costs stock (target: at most {TARGET_COST:.0%}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["rates", "costs", "all"], default="all")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--reports", type=int, nargs="+", default=RATE_REPORTS, help="of a trial, for the rates")
    parser.add_argument("--ours", type=int, default=120, help="trials of ours, for the rates")
    parser.add_argument("--reuse", type=int, default=30, help="trials of stock with reuse_actors")
    parser.add_argument("--stock", type=int, default=10, help="trials of stock without")
    parser.add_argument("--ours-long", type=int, default=60, help="trials of ours, for the cost of a report")
    parser.add_argument("--reuse-long", type=int, default=10, help="trials of stock, likewise")
    arguments = parser.parse_args()
    print(timing.heading(packages=common.PACKAGES))
    if arguments.part != "costs":
        rates(arguments)
    if arguments.part != "rates":
        costs(arguments)


if __name__ == "__main__":
    main()
