"""Commands that train: run a study, here or on a cluster (submit), or train one configuration."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune_lt.cli.arguments import (
    ReportsOption,
    SmallOption,
    StoreOption,
    StudyFile,
    check_reports,
    read_study,
    study_path,
)
from tune_lt.cli.output import print_ways
from tune_lt.cli.results import report_study
from tune_lt.errors import InputError, redacted
from tune_lt.study import command_line, smaller

if TYPE_CHECKING:
    from tune_lt.training import EpochResult


def run(
    study: StudyFile,
    small: SmallOption = False,
    store: StoreOption = None,
    reports: ReportsOption = Path("reports"),
) -> None:
    """Search, train every row of the tables, record it all, print the tables. Finished work is never done again."""
    from rich.console import Console

    from tune_lt.run.display import Display

    check_reports(reports)
    with Display(Console()) as display:
        display.say("reading the study and loading torch, ray, mlflow ...")
        parsed = read_study(study, small)
        if warning := smaller(parsed.scale):
            display.say(warning)
        from tune_lt.run.driver import run_study
        from tune_lt.store import Store

        display.say("opening the store ...")
        opened = Store(store)
        try:
            outcome = run_study(parsed, opened, display)
        except KeyboardInterrupt:
            again = command_line("run", study, small)
            display.say(f"stopped; what is finished is kept, the same command goes on: {again}")
            raise typer.Exit(130) from None
    if parsed.rows or parsed.searches:
        report = report_study(parsed.name, opened, reports)
        if outcome.model:
            from tune_lt.report.model_card import export

            export(report, outcome.model, opened, reports / parsed.name / "model", print)
            print()
    option = f" --store {shlex.quote(redacted(store))}" if store else ""
    follow = [(f"tune-lt ui{option}", "browse every run in the MLflow UI")]
    if parsed.rows or parsed.searches:
        follow.append((f"tune-lt report {parsed.name}{option}", "these tables again"))
    if parsed.searches:
        purpose = "the configuration found, as a file for tune-lt train"
        follow.append((f"{command_line('best', study, small)}{option}", purpose))
    print_ways(follow)
    if not outcome.whole:
        raise typer.Exit(1)  # cells of the tables failed; their reasons are above and in the store


def train(
    study: StudyFile,
    small: SmallOption = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Data seed and init seed.")] = 0,
    test: Annotated[
        bool, typer.Option("--test", help="Train on the whole training split, score the sealed test.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    save: Annotated[Path | None, typer.Option(help="Save the state here every epoch, and go on from it.")] = None,
) -> None:
    """Train one configuration without Ray or MLflow. Scores held-out images (of the first fold) unless --test."""
    parsed = read_study(study, small)
    import torch

    from tune_lt import training
    from tune_lt.study import reader

    own = parsed.own_search()
    if own:
        searched = ", ".join(path.replace("/", ".") for path in own.space)
        export = f"{command_line('best', study, small)} --export FILE"
        raise InputError(f"{study}: {searched} has a range; {export} writes one configuration")
    torch.set_num_threads(max(1, int(parsed.resources.cpus)))  # as a trial of the study would: the same rounding
    holdout, folds = parsed.validation.holdout, parsed.validation.folds
    fold = "full" if test else f"1/{folds}" if folds else "holdout"
    config = {**parsed.base(), "recipe": parsed.recipe}
    cell = reader.cell(config, data_seed=seed, init_seed=seed, fold=fold, holdout=holdout)
    for result in training.run_epochs(
        cell,
        device=device,
        score_test=test,
        save_to=save,
        identity=json.dumps(parsed.sources),
        loaders=parsed.resources.readers,
    ):
        print(_epoch_line(result), flush=True)


def submit(
    study: StudyFile,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The Ray dashboard, http://head:8265."),
    ],
    small: SmallOption = False,
    store: Annotated[
        str | None,
        typer.Option(metavar="URI", help="An MLflow server that the cluster reaches; else MLFLOW_TRACKING_URI."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log; exit with 1 if it fails.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Run it even if it succeeded before.")] = False,
) -> None:
    """Run a study on a Ray cluster, through its Jobs API. Submitted twice, it still runs once.

    The study file and its plugins are sent, images are not: data.root is a path on the cluster.
    """
    import time

    from tune_lt.run import jobs

    handover = jobs.prepare(study_path(study), store, address, small)
    client = jobs.connect(address)
    job = jobs.submit(handover, client, again=again)
    asked = f"{command_line('submit', study, small)} --address {address} --store {handover.store}"
    tables = f"tune-lt report {handover.study} --store {handover.store}"
    if job.outcome == "done":
        print(f"job {job.id}: {job.state}; not run again ({asked} --again does)\nits tables: {tables}")
        return
    if job.outcome == "attached":
        minutes = max(0.0, time.time() - job.started) / 60
        print(f"job {job.id}: {job.state}, submitted {minutes:.0f} min ago; nothing is run twice", flush=True)
    else:
        earlier = f"; {job.before}, what it finished is reused" if job.before else ""
        print(f"job {job.id}: submitted{earlier}", flush=True)
    ways = [
        (f"{asked} --follow", "its log, until it ends"),
        (f"tune-lt status {handover.study} --store {handover.store}", "how far it is"),
        (tables, "its tables"),
        (jobs.stop_command(client, job.id), "stops it; submitted again, it goes on"),
    ]
    if follow:
        try:
            succeeded = jobs.follow(client, job.id)
        except KeyboardInterrupt:
            print(f"\nthe job {job.id} goes on without you")
            print_ways([ways[0], ways[3]])
            raise typer.Exit(130) from None
        if not succeeded:
            raise typer.Exit(1)
        ways = [ways[2]]
    print_ways(ways)


def _epoch_line(result: EpochResult) -> str:
    line = f"epoch {result.epoch:>3}/{result.epochs}  lr {result.lr:.5f}  train loss {result.train_loss:.4f}"
    for split, scores in (("val", result.val), ("test", result.test)):
        if scores:
            line += f"  {split} top1 {scores.top1:.3f}  balanced {scores.balanced:.3f}"
            if result.final:
                line += "".join(f"  {group} {value:.3f}" for group, value in scores.groups.items())
    return line
