"""The store of all studies: writes runs and artifacts to MLflow, and reads them back page by page."""

from __future__ import annotations

import gc
import json
import logging
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Experiment, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine

from tune_lt.errors import InputError, redacted
from tune_lt.store import copies, opening, records, views
from tune_lt.store.client import PatientClient, StoreError, absent, answered, redirect, server_problem
from tune_lt.store.records import TAG, CellRecord, Cells
from tune_lt.store.uri import access_problem, sqlite_file, store_uri, use_password_file
from tune_lt.texts import first_line

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs with a traceback

PARENT = f"tags.`{TAG}kind` = 'study'"
CELLS = f"tags.`{TAG}kind` != 'study'"  # cells, and trials of several cells
FINISHED = f"tags.`{TAG}kind` = 'cell' and tags.`{TAG}outcome` = 'complete' and attributes.status = 'FINISHED'"
_OF_STUDY = f"{TAG}study"  # the name of the study that an experiment or a run belongs to
TAG_CHARACTERS = 8000  # MLflow's limit for a tag
PAGE = 1000  # runs read at a time
Document = TypeVar("Document")


class Store:
    """An MLflow tracking store. One for reading only (``write`` false) is not changed in any way by being opened.

    An SQLite file is created where there is none, unless it is only to be read. ``note`` says in words that an SQLite
    store was copied or moved, else it is ""; such a store is read as if it had been adopted (`tune_lt.store.copies`).
    Raises InputError when the store cannot be used, `NoStore` where there is nothing yet to be read.
    """

    def __init__(self, uri: str | None = None, *, write: bool = True) -> None:
        self.uri = store_uri(uri)
        file = sqlite_file(self.uri)
        self.folder = file.parent if file else None
        use_password_file()
        try:
            self._place = opening.place(self.uri, write=write)  # kept, since a copy is deleted with it
            self.client = PatientClient(MlflowClient(self._place.uri), self.uri)
            self.client.raw.search_experiments(max_results=1)
        except InputError:
            raise
        except Exception as error:
            if problem := access_problem(answered(error)) or server_problem(error, self.uri):
                raise InputError(redacted(f"tracking store {self.shown} {problem}")) from None
            reason = redacted(first_line(error), self.uri)
            raise InputError(f"tracking store {self.shown} cannot be used: {reason}") from None
        self.note = opening.moved_text(self.uri, *self._place.moved) if self._place.moved else ""
        if problem := redirect(self.uri):
            raise InputError(redacted(f"tracking store {self.shown} {problem}"))

    @property
    def shown(self) -> str:
        """The URI without its password, for messages."""
        return redacted(self.uri)

    def experiment(self, study: str) -> str:
        """The id of the study's experiment, created where it is missing. Raises InputError if it cannot be used."""
        found = self.home(study)
        if found is None:
            artifacts = (self.folder / copies.ARTIFACTS / study).as_uri() if self.folder else None
            tags = {_OF_STUDY: study, "mlflow.experimentKind": "custom_model_development"}  # the UI opens on its runs
            try:
                return str(self.client.create_experiment(study, artifact_location=artifacts, tags=tags))
            except StoreError as error:
                if (taken := self.client.get_experiment_by_name(study)) is None:
                    raise
                if taken.tags.get(_OF_STUDY) == study and taken.lifecycle_stage == "active":
                    return str(taken.experiment_id)  # another driver has just made it, or the answer was lost
                raise InputError(
                    f"tracking store {self.shown}: the experiment {study!r} is that of another study, "
                    f"{taken.tags.get(_OF_STUDY)!r}; valid: another name for this study or for that experiment"
                ) from error
        if found.lifecycle_stage != "active":
            raise InputError(self.deleted(study, found.experiment_id))
        return str(found.experiment_id)

    def deleted(self, study: str, experiment: str, run_id: str = "") -> str:
        """What became of the study's ``experiment`` or of its run ``run_id``, and how to restore it; "" if nothing.

        It asks once. Raises what MLflow raises if the store does not answer.
        """
        client, key, kind = self.client.raw, experiment, "experiments restore --experiment-id"
        what = f"the experiment of the study {study!r}"
        try:
            if client.get_experiment(experiment).lifecycle_stage == "active":
                if not run_id:
                    return ""
                key, kind, what = run_id, "runs restore --run-id", f"the run {run_id} of the study {study!r}"
                run = client.get_run(run_id).info
                if run.lifecycle_stage == "active":
                    return ""
                what = f"the run {run.run_name!r} ({run_id}) of the study {study!r}"
        except MlflowException as error:
            if not absent(error):
                raise
            return f"{what} was deleted for good from the store {self.shown}"
        restore = f"MLFLOW_TRACKING_URI={shlex.quote(self.shown)} mlflow {kind} {key}"
        return f"{what} was deleted from the store {self.shown}; {restore} restores it"

    def study_runs(self) -> list[Run]:
        """The parent run of every study in the store, newest first."""
        parents = self._runs(self._experiments(), PARENT)
        return sorted(parents, key=lambda run: run.info.start_time, reverse=True)

    def studies(self) -> list[str]:
        """The names of all studies in the store, newest first."""
        return list(dict.fromkeys(run.data.tags[_OF_STUDY] for run in self.study_runs()))

    def parent(self, study: str) -> Run | None:
        """The study's parent run, or None if it never ran on this store."""
        return next(iter(self.parents(study)), None)

    def parents(self, study: str) -> list[Run]:
        """The study's parent runs, the oldest first. There are several only if drivers began at the same moment."""
        found = self._runs(self._experiment_of(study), PARENT)
        return sorted(found, key=lambda run: run.info.start_time)

    def own_run(self, study: str) -> Run:
        """The study's parent run. Raises InputError that says why there is none."""
        run = self.parent(study)
        if run is not None:
            return run
        home = self.home(study)
        lost = next(self._runs([home.experiment_id], PARENT, ViewType.DELETED_ONLY), None) if home else None
        why = self.deleted(study, home.experiment_id, lost.info.run_id if lost else "") if home else ""
        known = ", ".join(self.studies()) or "none"
        raise InputError(why or f"no study {study!r} in {self.shown}; studies there: {known}")

    def ensure_parent(self, study: str) -> str:
        """The id of the study's parent run, created where there is none. Raises InputError if the store refuses."""
        run = self.parent(study)
        if run is None:
            tags = {f"{TAG}kind": "study", _OF_STUDY: study, "mlflow.runName": study}
            run = self.client.create_run(self.experiment(study), tags=tags)
        return str(run.info.run_id)

    def begin(self, run_id: str, text: str, tags: Mapping[str, str]) -> None:
        """Mark the study's parent run as running, and keep the study file's ``text`` as its artifact."""
        self.client.update_run(run_id, status="RUNNING")
        self.tag(run_id, tags)
        self.client.log_text(run_id, text, "study.yaml")

    def show(self, study: str, searched: Sequence[str], metric: str) -> None:
        """Make MLflow's UI list the views of the study's rows and trials (`views.tags`)."""
        experiment = self.experiment(study)
        for name, content in (views.tags(searched, metric) | {_OF_STUDY: study}).items():
            self.client.set_experiment_tag(experiment, name, content)

    def interrupt_running(self, study: str) -> int:
        """Mark the study's cells whose status is RUNNING as interrupted; return how many. Needs the study's lease."""
        running = self._records(self._experiment_of(study), f"{CELLS} and attributes.status = 'RUNNING'")
        for record in running:
            self.tag(record.run_id, {f"{TAG}outcome": "interrupted"})
            self.client.set_terminated(record.run_id, "KILLED")
        return len(running)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def describe(self, run_id: str, markdown: str) -> None:
        """Set the text that MLflow's UI shows on the run's page."""
        self.tag(run_id, {"mlflow.note.content": markdown[:TAG_CHARACTERS]})

    def log_json(self, run_id: str, name: str, content: Any) -> None:
        self.client.log_dict(run_id, content, name)

    def put_json(self, artifact_uri: str, name: str, content: Any) -> None:
        """`log_json` to a known artifact URI, for which MLflow would read the whole run. It tries once."""
        repository = get_artifact_repository(artifact_uri, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            file = Path(folder) / name
            file.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
            repository.log_artifact(str(file))

    def read_json(self, run_id: str, name: str) -> Any:
        """The content of a JSON artifact. Returns and raises what `read` does."""
        return self.read(run_id, name, lambda content: content)

    def read(self, run_id: str, name: str, of: Callable[[Any], Document]) -> Document | None:
        """A JSON artifact of the run as ``of`` reads it, which a class of `tune_lt.documents` has.

        None if the run has no such artifact. Raises InputError if it cannot be read.
        """
        text = self.read_text(run_id, name)
        try:
            return None if text is None else of(json.loads(text))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unreadable(run_id, name, error) from None

    def read_text(self, run_id: str, name: str) -> str | None:
        """The text of an artifact, None if the run has no such artifact. Raises InputError if it cannot be read."""
        if name not in {item.path for item in self.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            try:
                return Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
            except StoreError:
                raise
            except (OSError, ValueError) as error:
                raise self._unreadable(run_id, name, error) from None

    def _unreadable(self, run_id: str, name: str, error: Exception) -> InputError:
        return InputError(
            f"tracking store {self.shown}: {name} of run {run_id} is not readable: {redacted(str(error), self.uri)}"
        )

    def history(self, run_id: str, metric: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The epochs at which a run recorded a metric, in ascending order, and its values at them."""
        points = {point.step: point.value for point in self.client.get_metric_history(run_id, metric)}
        return tuple(sorted(points)), tuple(points[step] for step in sorted(points))

    def trials_found(self, study: str, searched: str, found: str) -> list[CellRecord]:
        """The complete trials of the study's search ``searched`` that tried ``found``, the JSON of a trial's tag."""
        if "'" in found + searched:
            return []  # MLflow's filters cannot quote it
        condition = f"tags.`{TAG}searched` = '{searched}' and tags.`{TAG}found` = '{found}'"
        return self._records(self._experiment_of(study), f"{condition} and tags.`{TAG}outcome` = 'complete'")

    def finished_cells(self) -> dict[str, CellRecord]:
        """The complete cells of all studies, by fingerprint; of two with the same one, the cell that ended first."""
        return records.finished(self._records(self._experiments(), FINISHED))

    def cells(self, study: str) -> Cells:
        """All runs of the study except its own, the oldest first."""
        return Cells(sorted(self._records(self._experiment_of(study), CELLS), key=lambda record: record.started))

    def snapshot(self, study: str) -> tuple[dict[str, CellRecord], Cells]:
        """What `finished_cells` and `cells` of the study return. Each run is read once."""
        cells, own, active = self.cells(study), self._experiment_of(study), self._experiments()
        complete = [c for c in cells if c.status == "FINISHED" and c.tags.get("outcome") == "complete"]
        here = [cell for cell in complete if cell.experiment in active]  # none if the study's experiment was deleted
        others = [experiment for experiment in active if experiment not in own]
        return records.finished(here + self._records(others, FINISHED)), cells

    def state_folder(self, study: str) -> Path:
        """The folder of the study's journal and checkpoints: beside an SQLite file, else in the working directory."""
        return (self.folder or Path.cwd()) / copies.STATE / study

    @property
    def engine(self) -> Engine | None:
        """SQLAlchemy's engine of MLflow's own connections to an SQLite file (see `tune_lt.store.sqlite`), else None."""
        return self.client.raw._tracking_client.store.engine if self.folder else None

    def _experiments(self) -> list[str]:
        found = self.client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=10_000)
        return [experiment.experiment_id for experiment in found]

    def home(self, study: str) -> Experiment | None:
        """The study's experiment, also a renamed or deleted one; None if there is none.

        It has a tag with the study's name. Those of older versions have none: they are known by their name or their
        study's own run.
        """
        named = self.client.get_experiment_by_name(study)
        if named and named.tags.get(_OF_STUDY) == study:
            return named
        every = self.client.search_experiments(view_type=ViewType.ALL, max_results=10_000)
        tagged = [one for one in every if one.tags.get(_OF_STUDY) == study]
        if tagged:
            return min(tagged, key=lambda one: one.lifecycle_stage != "active")
        if named and _OF_STUDY not in named.tags:
            return named
        runs = self._runs([one.experiment_id for one in every], PARENT, ViewType.ALL)
        own = {run.info.experiment_id for run in runs if run.data.tags.get(_OF_STUDY) == study}
        return next((one for one in every if one.experiment_id in own), None)

    def _experiment_of(self, study: str) -> list[str]:
        """The id of the study's experiment, alone in a list; an empty list if there is none."""
        found = self.home(study)
        return [found.experiment_id] if found else []

    def _records(self, experiments: list[str], condition: str) -> list[CellRecord]:
        with _garbage_kept():
            found = map(records.record_of, self._runs(experiments, condition))
            # by id, since a run that begins meanwhile moves another one to the next page, where it is read again
            return list({record.run_id: record for record in found}.values())

    def _runs(self, experiments: list[str], condition: str, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
        token: str | None = None
        while experiments:
            page = self.client.search_runs(experiments, condition, view, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                break


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Suspend Python's garbage collector, which would look through thousands of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
