"""What goes on around the training step: starting, states and reports, memory.

    python benchmarks/around.py --part start      # about 4 minutes on 2 cores
    python benchmarks/around.py --part share      # about 12: trials of a minute
    python benchmarks/around.py --part memory     # about 6
    python benchmarks/around.py --part growth     # about 1

- start: from the command `tune-lt run` to the first step of an optimizer in a worker, for the demo study, in a folder
  without a store and in one that has one; against `import torch, ray; ray.init(address="local")` in a fresh process, as
  it comes and without Ray's dashboard, which the product does not start. The sides take turns. And the CPU time of
  `tune-lt --help`.
- share: trials of ResNet-32 on the digits, one after the other in one worker, that only train (`run_epochs`), that
  write states too, and that are the product's, with reports through Tune and the journal into a store. In turns; the
  product's trials also count the seconds in which training waits for a report or for a state.
- memory: what `tune-lt plan` says a trial's process will need at most against what that of a real run took at most.
- growth: the memory of a process over 1,000 epochs of a tiny network with states written twice a second.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib import commands, common, memory, timing

DEMO = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
HELP_SECONDS, START_RATIO, SHARE = 0.3, 1.3, 0.03  # targets
PLUGIN = """\
import time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook

def stepped(*_):
    handle.remove()
    Path({file!r}).write_text(str(time.time()))

handle = register_optimizer_step_post_hook(stepped)
"""
BARE = "import time, torch, ray; ray.init(address='local'{options}); print('READY', time.time())"
SIDES = ("training alone", "with states", "the product's trial")


# --- start ------------------------------------------------------------------------------------------------------------


def first_step(folder: Path) -> float:
    """Seconds from the command to the first training step in a worker; the study is stopped then."""
    told = folder / "first_step"
    told.unlink(missing_ok=True)
    (folder / "tell.py").write_text(PLUGIN.format(file=str(told)))
    (folder / "demo.yaml").write_text(f"{DEMO.read_text()}\nplugins: [tell]\n")
    with open(folder / "out.txt", "w") as out:
        began = time.time()
        process = commands.command(folder, "run", "demo.yaml", stdout=out, stderr=out)
        while not (told.exists() and told.read_text()):
            if process.poll() is not None:
                raise RuntimeError((folder / "out.txt").read_text())
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.wait(120)
    return float(told.read_text()) - began


def bare(folder: Path, options: str) -> float:
    """Seconds from starting Python until Ray is there."""
    began = time.time()
    code = BARE.format(options=options)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=commands.environment(), capture_output=True, text=True, check=True
    )
    return float(done.stdout.split("READY")[1]) - began


def help_seconds(folder: Path) -> float:
    """CPU seconds of `tune-lt --help`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    commands.command(folder, "--help", stdout=subprocess.DEVNULL).wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start(arguments: argparse.Namespace) -> None:
    with common.workplace() as fresh:
        kept = fresh()

        def anew() -> float:
            folder = fresh()
            (folder / "mlflow.db").unlink()
            return first_step(folder)

        sides: dict[str, Callable[[], float]] = {
            "tune-lt run, a new store": anew,
            "tune-lt run, a store that is there": lambda: first_step(kept),
            "import torch, ray; ray.init": lambda: bare(kept, ""),
            "the same without the dashboard": lambda: bare(kept, ", include_dashboard=False"),
        }
        times: timing.Times = {name: [] for name in sides}
        helps = [help_seconds(kept)]
        for repetition in range(arguments.repetitions):
            for name in list(sides)[:: -1 if repetition % 2 else 1]:
                times[name].append(sides[name]())
                print(f"{name}: {times[name][-1]:.1f} s", file=sys.stderr)
            helps.append(help_seconds(kept))
    reference = "import torch, ray; ray.init"
    rows = [
        [name, timing.spread(seconds, 1), timing.spread(timing.ratios(times, name, reference))]
        for name, seconds in times.items()
    ]
    print(timing.table(["until the first step, or until Ray is there", "seconds", f"to `{reference}`"], rows))
    print(f"target: at most {START_RATIO}. Median (least to most) of {arguments.repetitions} repetitions in turns.")
    print(f"\n`tune-lt --help`: {timing.spread(helps)} CPU seconds (target: below {HELP_SECONDS})\n")


# --- share ------------------------------------------------------------------------------------------------------------


def trial(config: dict[str, Any], **shared: Any) -> None:
    """In place of the product's trainable: what the side of the trial's seed does, and how long it took, to a file."""
    import torch

    from tune_lt import training
    from tune_lt.run import trial_on_ray as product
    from tune_lt.run.search import planned as trials
    from tune_lt.training import checkpoint
    from tune_lt.training import results as recorded

    torch.set_num_threads(1)
    planned = config["planned"]
    cell = planned.units[0].cell
    turn, place = divmod(cell.init_seed, len(SIDES))
    side = SIDES[(place + turn) % len(SIDES)]
    clock: dict[str, float] = {}
    short = replace(cell, recipe=replace(cell.recipe, epochs=1))  # what only a worker's first trial loads
    list(training.run_epochs(short, dataset=shared["dataset"], device="cpu", score_test=True))
    began = time.perf_counter()
    if side == SIDES[2]:
        writer = checkpoint.Writer
        with (
            _timed(product.tune, "report", clock),
            _timed(writer, "wait", clock),
            _timed(writer, "save", clock, but="wait"),
        ):
            product.train_cell(config, **shared)
        took = time.perf_counter() - began
    else:
        state: dict[str, Any] = {}
        if side == SIDES[1]:
            state = {"save_to": Path(shared["checkpoints"]) / f"{cell.init_seed}.pt"}
            state |= {"save_seconds": shared["setting"].resources.checkpoint_seconds}
        results = training.run_epochs(cell, dataset=shared["dataset"], device="cpu", score_test=True, **state)
        content = next(recorded.content(result) for result in results if result.final)
        took = time.perf_counter() - began
        results.close()
        steps = {"unit": 0, "units": 1, "step": cell.recipe.epochs, "unit_final": True, "final": True, "known": False}
        product.tune.report(content | steps | trials.means([content], planned.watched))
    Path(shared["setting"].folder, f"{cell.init_seed}.json").write_text(
        json.dumps({"side": side, "took": took} | clock)
    )


@contextlib.contextmanager
def _timed(owner: Any, name: str, clock: dict[str, float], but: str = "") -> Iterator[None]:
    """Add up in ``clock`` the seconds in a function while the block runs; without those of ``but`` within."""
    before, clock[name] = getattr(owner, name), 0.0

    def call(*arguments: Any, **options: Any) -> Any:
        already, began = clock.get(but, 0.0), time.perf_counter()
        try:
            return before(*arguments, **options)
        finally:
            clock[name] += time.perf_counter() - began - (clock.get(but, 0.0) - already)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _trials(folder: Path, epochs: int, count: int) -> None:
    from rich.console import Console

    from tune_lt.run import driver, runner
    from tune_lt.run.display import Display
    from tune_lt.store import Store
    from tune_lt.study import reader

    runner.train_cell = trial  # type: ignore[assignment]
    common.for_workers(trial)
    content = {"data": "digits", "model": "resnet32", "batch": 64, "augment": commands.SMALL}
    study = reader.parse(commands.STUDY.format(epochs=epochs, seeds=list(range(count)), **content), folder)
    if not driver.run_study(study, Store(common.store_uri(folder)), Display(Console(file=io.StringIO()))).whole:
        raise RuntimeError("the study did not come to its end")


def _epoch_seconds() -> float:
    """Of the trials of `share`."""
    import torch

    from tune_lt import training
    from tune_lt.study import reader

    torch.set_num_threads(1)
    text = commands.STUDY.format(data="digits", model="resnet32", batch=64, augment=commands.SMALL, epochs=2, seeds=[0])
    study = reader.parse(text, Path())
    cell = reader.cell(study.base() | {"recipe": study.recipe}, data_seed=0, init_seed=0)
    return [result.seconds for result in training.run_epochs(cell, device="cpu")][-1]


def share(arguments: argparse.Namespace) -> None:
    epochs = max(2, round(arguments.seconds / common.in_process(_epoch_seconds)))
    with common.workplace() as fresh:
        folder = fresh()
        common.in_process(_trials, folder, epochs, len(SIDES) * arguments.repetitions)
        found = [
            json.loads((folder / f"{seed}.json").read_text()) for seed in range(len(SIDES) * arguments.repetitions)
        ]
    times = {side: [one["took"] for one in found if one["side"] == side] for side in SIDES}
    rows = []
    for side in SIDES:
        more = "—" if side == SIDES[0] else _percent([value - 1 for value in timing.ratios(times, side, SIDES[0])])
        rows.append([side, str(epochs), timing.spread(times[side], 1), more])
    print(timing.table(["trial", "epochs", "seconds", "more than training alone, %"], rows))
    own = [one for one in found if one["side"] == SIDES[2]]
    waits = {"a report (Tune, journal)": "report", "copying a state": "save", "the state before to be written": "wait"}
    rows = [
        [
            what,
            timing.spread([1000 * one[name] / epochs for one in own], 1),
            _percent([one[name] / one["took"] for one in own]),
        ]
        for what, name in waits.items()
    ]
    whole = [sum(one[name] for name in waits.values()) / one["took"] for one in own]
    rows.append(["all of them", "", _percent(whole)])
    print(timing.table(["in the product's trial, training waits for", "ms an epoch", "% of the trial"], rows))
    print(f"target: below {SHARE:.0%}. Median (least to most) of {arguments.repetitions} trials of each in turns.\n")


def _percent(values: list[float]) -> str:
    return timing.spread([100 * value for value in values], 2)


# --- all --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"start": start, "share": share, "memory": memory.memory, "growth": memory.growth}
    parser.add_argument("--part", choices=[*parts, "all"], default="all")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training in a trial of share")
    parser.add_argument("--trials", type=int, help="so many of memory's only")
    parser.add_argument("--images", type=int, default=10_000, help="of the largest trial of memory")
    parser.add_argument("--epochs", type=int, default=1000, help="of growth")
    arguments = parser.parse_args()
    print(timing.heading(packages=common.PACKAGES))
    for name, part in parts.items():
        if arguments.part in (name, "all"):
            part(arguments)


if __name__ == "__main__":
    main()
