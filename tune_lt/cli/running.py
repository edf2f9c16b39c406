"""The commands that train: run (a study, here), submit (a study, to a cluster), train (one configuration)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from tune_lt.cli.arguments import (
    ReportsOption,
    SmallOption,
    StoreOption,
    StudyFile,
    check_reports,
    read_study,
    study_path,
)
from tune_lt.cli.output import print_ways, store_option
from tune_lt.cli.results import write_study
from tune_lt.errors import InputError, printable
from tune_lt.process import stoppable
from tune_lt.study import command_line, smaller

if TYPE_CHECKING:
    from tune_lt.run.driver import Outcome
    from tune_lt.store import Store
    from tune_lt.study import Study
    from tune_lt.training import EpochResult


def run(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    reports: ReportsOption = Path("reports"),
) -> None:
    """Run a study: search, train, record, report. What is finished is never done again.

    The exit code is 1 if something failed, apart from trials of a search that diverge while others do not.
    """
    from rich.console import Console

    from tune_lt.run.display import Display

    check_reports(reports)
    again = command_line("run", study, small)
    kept = f"stopped; what is finished is kept, and the same command goes on from there: {again}"
    with stoppable(kept):
        with Display(Console()) as display:
            display.say("reading the study and loading torch, ray, mlflow ...")
            parsed = read_study(study, small)
            if warning := smaller(parsed.scale):
                display.say(warning)
            from tune_lt.run.driver import run_study
            from tune_lt.store import Store

            display.say("opening the store ...")
            opened = Store(store)
            outcome = run_study(parsed, opened, display)
        _tell(parsed, opened, outcome, reports, command_line("best", study, small), store_option(store))
    if not outcome.whole:
        raise Exit(1)


def _tell(study: Study, store: Store, outcome: Outcome, reports: Path, best: str, option: str) -> None:
    """Write and print what a study that has been run came to, and the commands that go on from there."""
    from tune_lt.run import failures

    follow = [(f"tune-lt ui{option}", "browse every run in the MLflow UI")]
    if outcome.reported:
        follow.append((f"tune-lt report {study.name}{option}", "these tables again"))
        report = write_study(study.name, store, reports, record=True)
        if outcome.model:
            from tune_lt.report.model_card import export

            export(report, outcome.model, store, reports / study.name / "model", print)
            print()
    if study.searches and outcome.reported:
        follow.append((f"{best}{option}", "the configuration found, for tune-lt train"))
    for line in failures.summary(outcome.failures):
        print(printable(line))
    print_ways(follow)


def train(
    study: StudyFile,
    small: SmallOption = False,
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="Both the data seed and the init seed.")] = 0,
    test: Annotated[bool, Option("--test", help="Train on all training images; score the sealed test.")] = False,
    device: Annotated[str, Option(help="auto, cpu, mps, cuda, or one GPU such as cuda:1.")] = "auto",
    save: Annotated[Path | None, Option(help="Save the state to this file every epoch, and resume from it.")] = None,
) -> None:
    """Train one configuration, without Ray and MLflow. Scores held-out images (of the first fold) unless --test."""
    parsed = read_study(study, small)
    if save and save.is_dir():
        raise InputError(f"--save {save}: found a folder; valid: a file")
    import torch

    from tune_lt import training
    from tune_lt.study.cells import base_cell
    from tune_lt.training.identity import used

    own = parsed.own_search()
    if own:
        searched = ", ".join(path.replace("/", ".") for path in own.space)
        export = f"{command_line('best', study, small)} --export FILE"
        raise InputError(f"{study}: {searched} has a range, but one configuration is trained; {export} writes one")
    torch.set_num_threads(max(1, int(parsed.resources.cpus)))  # as in the study's trials, for the same rounding
    holdout, folds = parsed.validation.holdout, parsed.validation.folds
    fold = "full" if test else f"1/{folds}" if folds else "holdout"
    cell = base_cell(parsed, data_seed=seed, init_seed=seed, fold=fold, holdout=holdout)
    kept = f"the same command goes on from {save}" if save else "with --save FILE the same command would go on"
    with stoppable(f"stopped; {kept}"):
        dataset = training.load_dataset(cell)
        training.rehearse(cell, dataset)
        for result in training.run_epochs(
            cell,
            dataset=dataset,
            device=device,
            score_test=test,
            save_to=save,
            identity=json.dumps(used(cell.data, cell.model, cell.loss, parsed.sources)),
            loaders=parsed.resources.readers,
        ):
            print(_epoch_line(result), flush=True)


def submit(
    study: StudyFile,
    address: Annotated[
        str, Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The Ray dashboard, as in http://head:8265.")
    ],
    small: SmallOption = False,
    store: Annotated[
        str | None,
        Option(metavar="URI", help="An MLflow server that the cluster can reach. Default: MLFLOW_TRACKING_URI."),
    ] = None,
    follow: Annotated[bool, Option("--follow", help="Print the job's log; exit with code 1 if it fails.")] = False,
    again: Annotated[bool, Option("--again", help="Run the study even if its job succeeded before.")] = False,
) -> None:
    """Run a study on a Ray cluster, through its Jobs API. A study that is submitted twice runs once.

    The study file and its plugins are sent to the cluster, images are not: data.root is a path on the cluster.
    """
    import time

    from tune_lt.run import jobs

    handover = jobs.prepare(study_path(study), store, address, small)
    client = jobs.connect(address)
    job = jobs.submit(handover, client, again=again)
    asked = f"{command_line('submit', study, small)} --address {address} --store {handover.store}"
    watch = (f"{asked} --follow", "prints its log until it ends")
    tables = (f"tune-lt report {handover.study} --store {handover.store}", "prints its tables")
    stop = (jobs.stop_command(client, job.id), "stops it; submitted again, it goes on")
    if job.outcome == "done":
        print(f"job {job.id}: {job.state}; not run again ({asked} --again does)")
        print_ways([tables])
        return
    if job.outcome == "attached":
        minutes = max(0.0, time.time() - job.started) / 60
        print(f"job {job.id}: {job.state}, submitted {minutes:.0f} min ago; nothing is run twice", flush=True)
    else:
        earlier = f"; {job.before}, what it finished is reused" if job.before else ""
        print(f"job {job.id}: submitted{earlier}", flush=True)
    if not follow:
        status = (f"tune-lt status {handover.study} --store {handover.store}", "shows how far it is")
        print_ways([watch, status, tables, stop])
        return
    try:
        succeeded = jobs.follow(client, job.id)
    except KeyboardInterrupt:
        print(f"\nthe job {job.id} goes on without you")
        print_ways([watch, stop])
        raise Exit(130) from None
    if not succeeded:
        raise Exit(1)
    print_ways([tables])


def _epoch_line(result: EpochResult) -> str:
    line = f"epoch {result.epoch:>3}/{result.epochs}  lr {result.lr:.5f}  train loss {result.train_loss:.4f}"
    for split, scores in (("val", result.val), ("test", result.test)):
        if scores:
            line += f"  {split} top1 {scores.top1:.3f}  balanced {scores.balanced:.3f}"
            if result.final:
                line += "".join(f"  {group} {value:.3f}" for group, value in scores.groups.items())
    return line
