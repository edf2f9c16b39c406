"""The command line. Importing this module loads none of torch, ray, mlflow: each command imports what it needs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_lt import __version__
from tune_lt.errors import InputError, TrainingFailed
from tune_lt.study import FULL

if TYPE_CHECKING:
    from tune_lt.study import Study

app = typer.Typer(
    help="Hyper-parameter search for long-tailed image classification: GHM-CWAP and every baseline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of a bundled one (digits).")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its file.")]
ScaleOption = Annotated[
    str, typer.Option("--scale", help="A smaller form of the study, by its name among the file's `scales`.")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="MLflow tracking URI; else MLFLOW_TRACKING_URI, else ./mlflow.db."),
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Where the tables and figures go, in a folder a study.")]


@app.command()
def run(
    study: StudyFile,
    scale: ScaleOption = FULL,
    store: StoreOption = None,
    reports: ReportsOption = Path("reports"),
) -> None:
    """Search, train every row of the tables, record it all, print the tables. Finished work is never done again."""
    from rich.console import Console

    from tune_lt.search.display import Display

    _check_folder(reports)
    with Display(Console()) as display:
        display.say("reading the study and loading torch, ray, mlflow ...")
        parsed = _read(study, scale)
        if parsed.scale != FULL:
            display.say(f"scale {parsed.scale}: smaller than the study is meant to be; no number of it is the study's")
        from tune_lt.search.driver import run_study
        from tune_lt.tracking import Store

        display.say("opening the store ...")
        opened = Store(store)
        try:
            whole = run_study(parsed, opened, display)
        except KeyboardInterrupt:
            display.say(f"stopped; what is finished is kept, the same command goes on: {_command('run', study, scale)}")
            raise typer.Exit(130) from None
    if parsed.rows or parsed.searches:
        _report(parsed.name, opened, reports)
    option = f" --store {store}" if store else ""
    follow = [(f"tune-lt ui{option}", "browse every run in the MLflow UI")]
    if parsed.rows or parsed.searches:
        follow.append((f"tune-lt report {parsed.name}{option}", "these tables again"))
    if parsed.searches:
        follow.append(
            (f"{_command('best', study, scale)}{option}", "the configuration found, as a file for tune-lt train")
        )
    _print_ways(follow)
    if not whole:
        raise typer.Exit(1)  # cells of the tables failed; their reasons are above and in the store


@app.command()
def plan(
    study: StudyFile,
    scale: ScaleOption = FULL,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Check a study file and show what it would train, what is done already and what the rest costs. Changes nothing.

    The cost follows from past runs on the store, without any from some training steps that are timed here.
    """
    parsed = _read(study, scale)
    from tune_lt import estimate, plans
    from tune_lt.search import driver
    from tune_lt.tracking import Store, exists

    dataset = driver.load_data(parsed)
    lines = driver.rehearse(parsed, dataset)
    seen = estimate.outlook(parsed, Store(store) if exists(store) else None, dataset.content_hash)
    cost = estimate.estimate(parsed, dataset, seen)
    if as_json:
        print(json.dumps(plans.content(parsed, lines, seen, cost)))
    else:
        print("\n".join(plans.lines(parsed, lines, seen, cost)))


@app.command()
def data(study: StudyFile, scale: ScaleOption = FULL, reports: ReportsOption = Path("reports")) -> None:
    """Show the images before training: how many of each class and group, the long tail, the folds, some of them.

    The table is printed; all classes (CSV), a plot and sample images from head to tail go to a folder.
    """
    parsed = _read(study, scale)
    _check_folder(reports)
    from tune_lt.reporting import datasets
    from tune_lt.search import driver

    loaded = driver.load_data(parsed)
    for line in driver.rehearse(parsed, loaded):
        print(line)
    table, files = datasets.write(parsed, loaded, reports / parsed.name / "data")
    _print_tables([table])
    print("\nwritten:", ", ".join(map(str, files)))


@app.command()
def status(study: Annotated[str | None, typer.Argument()] = None, store: StoreOption = None) -> None:
    """What the store has of one study, or of all: trials by outcome, cells of the tables done and missing."""
    from collections import Counter

    from tune_lt.tracking import Store, exists, store_uri

    if not exists(store):
        raise InputError(f"{store_uri(store)}: no store there yet")
    opened = Store(store)
    names = [_name(study)] if study else opened.studies()
    if not names:
        print(f"no studies in {opened.shown}")
    finished = opened.finished_cells()
    for name in names:
        parent = opened.parent(name)
        if parent is None:
            raise InputError(
                f"no study {name!r} in {opened.shown}; studies there: {', '.join(opened.studies()) or 'none'}"
            )
        outcomes = Counter(trial.tags.get("outcome", "unfinished") for trial in opened.trials(name))
        content = opened.read_json(parent.info.run_id, "cells.json") or {"rows": {}}
        planned = {entry["fingerprint"] for entries in content["rows"].values() for entry in entries}
        trials = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
        done = len(planned & finished.keys())
        state = parent.info.status.lower()
        print(f"{name}: {state}; search trials: {trials}; cells of the tables: {done} of {len(planned)}")


@app.command()
def report(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="A study's name, or its file; none for the paper's tables.")
    ] = None,
    scale: ScaleOption = FULL,
    store: StoreOption = None,
    reports: ReportsOption = Path("reports"),
    ui: Annotated[
        str | None,
        typer.Option("--ui", metavar="URL", help="The MLflow UI that report.html links to; else that of `tune-lt ui`."),
    ] = None,
) -> None:
    """Assemble a study's tables, figures and page from the store; print the tables and write it all to a folder.

    Without a study the paper's Tables 1 to 3, from all studies of the store that are parts of them.
    """
    from tune_lt.tracking import Store

    if ui is not None and not ui.startswith(("http://", "https://")):
        raise InputError(f"--ui {ui}: not an address of a web page; valid: one such as http://127.0.0.1:5000")
    if study is None:
        _report_paper(Store(store), scale, reports)
    else:
        _report(_name(study, scale), Store(store), reports, ui)


@app.command()
def best(
    study: StudyFile,
    scale: ScaleOption = FULL,
    store: StoreOption = None,
    export: Annotated[Path | None, typer.Option(help="Write it as a study file for `tune-lt train`.")] = None,
    loss: Annotated[str | None, typer.Option(help="The compared loss meant; else the study's own.")] = None,
) -> None:
    """The best configuration the search found, as a study file."""
    parsed = _read(study, scale)
    import yaml

    from tune_lt import plans, studyfile
    from tune_lt.registry import names
    from tune_lt.search import driver, planning
    from tune_lt.study import nested, overlay
    from tune_lt.tracking import Store, exists, store_uri

    own = parsed.own_search()
    wanted = loss or (own.name if own else next(iter(parsed.searches), ""))
    if wanted not in parsed.searches:
        raise InputError(f"{study}: the study does not search {wanted or 'anything'}; {names(parsed.searches)}")
    space = parsed.searches[wanted]
    if not exists(store):
        raise InputError(f"{store_uri(store)}: no store there yet; {_command('run', study, scale)}")
    opened = Store(store)
    parent = opened.parent(parsed.name)
    content_hash = driver.load_data(parsed).content_hash
    concluded = parent and planning.recorded_search(parsed, space, opened, parent.info.run_id, content_hash)
    if not concluded:
        raise InputError(
            f"{opened.shown} has no finished search of {parsed.name!r} as it stands; {_command('run', study, scale)}"
        )
    base = parsed.base() | {"loss": dict(space.loss), "model": dict(space.model)}
    config = plans.plain(overlay(base, nested(space.complete(concluded["found"]))))
    config = {"name": f"{parsed.name}-best"} | config
    config["data"]["validation"] = plans.plain(dataclasses.asdict(parsed.validation))
    config["resources"] = {"cpus": parsed.resources.cpus}  # its number of threads
    if parsed.plugins:
        config["plugins"] = list(parsed.plugins)
    seed = parsed.units(space)[0][0]
    text = f"# what the search of {parsed.name} found; its trial was trained with --seed {seed}\n"
    text += yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    studyfile.parse(text, parsed.folder)  # what we hand out must be readable
    if export is None:
        print(text, end="")
    else:
        export.write_text(text, encoding="utf-8")
        print(f"wrote {export}; next: tune-lt train {export} --seed {seed}")


@app.command()
def train(
    study: StudyFile,
    scale: ScaleOption = FULL,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Data seed and init seed.")] = 0,
    test: Annotated[
        bool, typer.Option("--test", help="Train on the whole training split, score the sealed test.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    save: Annotated[Path | None, typer.Option(help="Save the state here every epoch, and go on from it.")] = None,
) -> None:
    """Train one configuration without Ray or MLflow. Scores held-out images (of the first fold) unless --test."""
    parsed = _read(study, scale)
    import torch

    from tune_lt import studyfile, training

    own = parsed.own_search()
    if own:
        searched = ", ".join(path.replace("/", ".") for path in own.space)
        raise InputError(
            f"{study}: {searched} has a range; {_command('best', study, scale)} --export FILE writes one configuration"
        )
    torch.set_num_threads(max(1, int(parsed.resources.cpus)))  # as a trial of the study would: the same rounding
    holdout, folds = parsed.validation.holdout, parsed.validation.folds
    fold = "full" if test else f"1/{folds}" if folds else "holdout"
    config = {**parsed.base(), "recipe": parsed.recipe}
    cell = studyfile.cell(config, data_seed=seed, init_seed=seed, fold=fold, holdout=holdout)
    for result in training.run_epochs(
        cell,
        device=device,
        score_test=test,
        save_to=save,
        identity=json.dumps(parsed.sources),
        loaders=parsed.resources.readers,
    ):
        line = f"epoch {result.epoch:>3}/{result.epochs}  lr {result.lr:.5f}  train loss {result.train_loss:.4f}"
        for split, scores in (("val", result.val), ("test", result.test)):
            if scores:
                groups = "".join(f"  {group} {value:.3f}" for group, value in scores.groups.items())
                line += (
                    f"  {split} top1 {scores.top1:.3f}  balanced {scores.balanced:.3f}{groups if result.final else ''}"
                )
        print(line, flush=True)


@app.command()
def submit(
    study: StudyFile,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The Ray dashboard, http://head:8265."),
    ],
    scale: ScaleOption = FULL,
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

    from tune_lt import submit as jobs

    handover = jobs.prepare(study_path(study), store, address, scale)
    client = jobs.connect(address)
    job = jobs.submit(handover, client, again=again)
    asked = f"{_command('submit', study, scale)} --address {address} --store {handover.store}"
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
            _print_ways([ways[0], ways[3]])
            raise typer.Exit(130) from None
        if not succeeded:
            raise typer.Exit(1)
        ways = [ways[2]]
    _print_ways(ways)


@app.command()
def ui(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the store (a server URI needs none: it is printed)."""
    import socket

    from tune_lt.tracking import Store

    uri = Store(store).uri
    if uri.startswith(("http://", "https://")):
        print(f"the store is a server: open {uri} in a browser")
        return
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise InputError(f"port {port} of {host} is taken; choose another with --port")
    print(f"MLflow UI: http://{host}:{port}   (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)


@app.command()
def doctor(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Look at its record too: name or file.")] = None,
    store: StoreOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Put the study's record right, and say what was done.")] = False,
) -> None:
    """What is installed, which devices there are, whether the store can be used. Exit code 1 if something is wrong.

    With a STUDY also what dead drivers left in its record: runs still RUNNING, cells without metrics, two runs of one
    cell, records not sent. Nothing of a study that is being run is touched.
    """
    from tune_lt.doctor import examine

    if fix and study is None:
        raise InputError("--fix: says which record is to be put right; tune-lt doctor STUDY --fix")
    name = _name(study) if study else None
    problems = examine(store)
    if name is not None and not problems:
        problems = _doctor_study(name, store, fix)
    for problem in problems:
        print(f"problem: {problem}")
    print("problems: none" if not problems else f"problems: {len(problems)}")
    raise typer.Exit(1 if problems else 0)


def main() -> None:
    """The entry point: a mistake of the user is one message and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingFailed as error:
        print(f"training failed: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tune-lt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def study_path(study: str) -> Path:
    """The study file meant: a path, or the name of one that comes with the package."""
    here = Path(study)
    folders = (Path(__file__).parent / "search_spaces", Path(__file__).parents[1] / "search_spaces")  # wheel, checkout
    bundled = {file.stem: file for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")}
    if here.exists():
        return here
    if study.removesuffix(".yaml") in bundled:
        return bundled[study.removesuffix(".yaml")]
    if here.suffix in (".yaml", ".yml"):
        return here
    raise InputError(f"{study}: no such file, and no bundled study of that name; bundled: {', '.join(sorted(bundled))}")


def _read(study: str, scale: str = FULL) -> Study:
    path = study_path(study)
    from tune_lt import studyfile

    return studyfile.read(path, scale)


def _name(study: str, scale: str = FULL) -> str:
    """A study's name from its name or its file, in one of its scales."""
    if study.endswith((".yaml", ".yml")):
        return _read(study, scale).name
    return study if scale == FULL else f"{study}-{scale}"


def _command(name: str, study: str, scale: str) -> str:
    """What to type for a command on a study."""
    return f"tune-lt {name} {study}" + (f" --scale {scale}" if scale != FULL else "")


def _report(name: str, store: Any, reports: Path, ui: str | None = None) -> None:
    from tune_lt.reporting import formats
    from tune_lt.reporting import report as reporting

    collected = reporting.collect(store, name)
    files = reporting.write(collected, reports / name, ui)
    parent = store.parent(name)
    store.log_files(parent.info.run_id, files, "report")
    store.describe(parent.info.run_id, "\n".join(formats.markdown(table) for table in collected.tables))
    _print_tables(collected.tables)
    print(f"\nwritten to {reports / name}/ and to the study's run in MLflow")
    print(f"all of it on one page, for a browser: {reports / name / 'report.html'}\n")


def _report_paper(store: Any, scale: str, reports: Path) -> None:
    from tune_lt.reporting import paper
    from tune_lt.reporting import report as reporting

    sheets = paper.sheets(store, scale)
    if not sheets:
        command = _command("run", "table1_cifar10", scale)
        raise InputError(f"the store {store.shown} has no {scale} part of the paper's tables; one is: {command}")
    folder = reports / ("paper" if scale == FULL else f"paper-{scale}")
    reporting.write_sheets(sheets, folder)
    _print_tables(sheets)
    print(f"\nwritten to {folder}/")


def _print_tables(tables: Iterable[Any]) -> None:
    from rich.console import Console

    from tune_lt.reporting import formats

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)  # a file has no width: room for whole cells
    for table in tables:
        console.print()
        console.print(formats.terminal(table))


def _print_ways(ways: list[tuple[str, str]]) -> None:
    """What to type next, and what for."""
    width = max(len(command) for command, _ in ways)
    print("next:")
    for command, purpose in ways:
        print(f"  {command:<{width}}   {purpose}")


def _doctor_study(name: str, store: str | None, fix: bool) -> list[str]:
    """Examine a study's record, repair it if told to; the problems that remain."""
    from tune_lt import repair
    from tune_lt.tracking import Store, exists, store_uri

    if not exists(store):
        raise InputError(f"{store_uri(store)}: no store there yet")
    opened = Store(store)
    findings = repair.examine_study(opened, name)
    if fix and any(finding.remedy for finding in findings):
        for line in repair.fix(opened, findings):
            print(f"fixed: {line}")
        findings = repair.examine_study(opened, name)
    for finding in findings:
        if not finding.problem:
            print(finding)
    return [str(finding) for finding in findings if finding.problem]


def _check_folder(folder: Path) -> None:
    """Fail now rather than after the training where the reports could not be written."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"--reports {folder}: {existing} is not a folder that can be written to")


if __name__ == "__main__":
    main()
