"""The store of all studies: runs and artifacts written, and read back page by page."""

from __future__ import annotations

import gc
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine

from tune_lt.errors import InputError, redacted
from tune_lt.store import records, sqlite, views
from tune_lt.store.client import PatientClient, answered
from tune_lt.store.records import TAG, CellRecord, Cells
from tune_lt.store.uri import access_problem, sqlite_folder, store_uri, use_password_file
from tune_lt.texts import first_line

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

CELLS = f"tags.`{TAG}kind` != 'study'"  # and the trials that several cells make up
FINISHED = f"tags.`{TAG}kind` = 'cell' and tags.`{TAG}outcome` = 'complete' and attributes.status = 'FINISHED'"
TAG_CHARACTERS = 8000  # MLflow's limit of a tag
PAGE = 1000  # runs read at a time
Document = TypeVar("Document")


class Store:
    """An MLflow tracking store. Opening one creates the SQLite tables where they are missing: once, by the driver.

    Raises InputError when the store cannot be reached.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = store_uri(uri)
        self.folder = sqlite_folder(self.uri)
        if self.folder and not self.folder.is_dir():
            raise InputError(f"tracking store {self.shown}: the folder {self.folder} does not exist")
        use_password_file()
        try:
            self.client = PatientClient(MlflowClient(self.uri))
            self.client.search_experiments(max_results=1)
        except Exception as error:
            if problem := access_problem(answered(error)):
                raise InputError(f"tracking store {self.shown} {problem}") from None
            reason = redacted(first_line(error), self.uri)
            raise InputError(f"tracking store {self.shown} cannot be used: {reason}") from None

    @property
    def shown(self) -> str:
        """The URI for messages: a password in it is not printed."""
        return redacted(self.uri)

    def experiment(self, study: str) -> str:
        """The id of the study's experiment, created where it is missing."""
        found = self.client.get_experiment_by_name(study)
        if found is None:
            artifacts = (self.folder / "mlartifacts" / study).as_uri() if self.folder else None
            kind = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI opens on training runs
            return str(self.client.create_experiment(study, artifact_location=artifacts, tags=kind))
        if found.lifecycle_stage != "active":
            raise InputError(f"tracking store: the experiment {study!r} was deleted; restore it or rename the study")
        return str(found.experiment_id)

    def study_runs(self) -> list[Run]:
        """The parent run of every study in the store, newest first."""
        everywhere = [experiment.experiment_id for experiment in self._experiments()]
        parents = [run for page in self._pages(everywhere, f"tags.`{TAG}kind` = 'study'") for run in page]
        return sorted(parents, key=lambda run: run.info.start_time, reverse=True)

    def studies(self) -> list[str]:
        """The names of all studies in the store, newest first."""
        return list(dict.fromkeys(run.data.tags[f"{TAG}study"] for run in self.study_runs()))

    def parent(self, study: str) -> Run | None:
        """The study's parent run, or None if it never ran on this store."""
        return next(iter(self.parents(study)), None)

    def parents(self, study: str) -> list[Run]:
        """The study's parent runs, the oldest first: one, unless two drivers began at the same moment."""
        return sorted(self._of(study, f"tags.`{TAG}kind` = 'study'"), key=lambda run: run.info.start_time)

    def ensure_parent(self, study: str) -> str:
        """The id of the study's parent run, created where there is none. Raises InputError if the store refuses."""
        try:
            run = self.parent(study)
            if run is None:
                tags = {f"{TAG}kind": "study", f"{TAG}study": study, "mlflow.runName": study}
                run = self.client.create_run(self.experiment(study), tags=tags)
        except MlflowException as error:
            raise InputError(
                f"tracking store {self.shown} cannot be written: {redacted(str(error), self.uri)}"
            ) from None
        return str(run.info.run_id)

    def begin(self, run_id: str, text: str, tags: Mapping[str, str]) -> None:
        """Mark the study's parent run as running, with the study file as its artifact."""
        self.client.update_run(run_id, status="RUNNING")
        self.tag(run_id, tags)
        self.client.log_text(run_id, text, "study.yaml")

    def show(self, study: str, searched: Sequence[str], metric: str) -> None:
        """Leave the views of the study's rows and trials in MLflow's UI (`views.tags`)."""
        experiment = self.experiment(study)
        for name, content in views.tags(searched, metric).items():
            self.client.set_experiment_tag(experiment, name, content)

    def interrupt_running(self, study: str) -> int:
        """Mark the cells of the study that claim to run as interrupted; how many. For the holder of the lease alone."""
        running = self._records_of(study, f"{CELLS} and attributes.status = 'RUNNING'")
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
        """The text that the UI shows on the run's own page."""
        self.tag(run_id, {"mlflow.note.content": markdown[:TAG_CHARACTERS]})

    def log_json(self, run_id: str, name: str, content: Any) -> None:
        self.client.log_dict(run_id, content, name)

    def put_json(self, artifact_uri: str, name: str, content: Any) -> None:
        """`log_json` where the place of a run's artifacts is known, which MLflow reads the whole run for. One try."""
        repository = get_artifact_repository(artifact_uri, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            file = Path(folder) / name
            file.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
            repository.log_artifact(str(file))

    def read_json(self, run_id: str, name: str) -> Any:
        """An artifact written by `log_json`, or None where the run has none of that name."""
        text = self.read_text(run_id, name)
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise self._unreadable(run_id, name, error) from None

    def read(self, run_id: str, name: str, of: Callable[[Any], Document]) -> Document | None:
        """A document of the run, made by its type's ``of`` (`tune_lt.documents`), or None where the run has none."""
        content = self.read_json(run_id, name)
        try:
            return None if content is None else of(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unreadable(run_id, name, error) from None

    def read_text(self, run_id: str, name: str) -> str | None:
        """A text among the run's artifacts, or None where the run has none of that name."""
        if name not in {item.path for item in self.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            try:
                return Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError, ValueError) as error:
                raise self._unreadable(run_id, name, error) from None

    def _unreadable(self, run_id: str, name: str, error: Exception) -> InputError:
        return InputError(
            f"tracking store {self.shown}: {name} of run {run_id} is not readable: {redacted(str(error), self.uri)}"
        )

    def history(self, run_id: str, metric: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The epochs at which a run recorded a metric, rising, and its value at each."""
        points = {point.step: point.value for point in self.client.get_metric_history(run_id, metric)}
        return tuple(sorted(points)), tuple(points[step] for step in sorted(points))

    def trials_found(self, study: str, searched: str, found: str) -> list[CellRecord]:
        """The study's complete trials of a search that tried ``found``, the JSON of a trial's tag."""
        if "'" in found + searched:
            return []  # MLflow's filters have no way to write one
        condition = f"tags.`{TAG}searched` = '{searched}' and tags.`{TAG}found` = '{found}'"
        return self._records_of(study, f"{condition} and tags.`{TAG}outcome` = 'complete'")

    def finished_cells(self) -> dict[str, CellRecord]:
        """Every completed cell of every study in the store, by fingerprint; of two, the one finished first."""
        return records.finished(
            self._records([experiment.experiment_id for experiment in self._experiments()], FINISHED)
        )

    def cells(self, study: str) -> Cells:
        """Every run of the study but its own, the oldest first."""
        return Cells(sorted(self._records_of(study, CELLS), key=lambda record: record.started))

    def snapshot(self, study: str) -> tuple[dict[str, CellRecord], Cells]:
        """What `finished_cells` and `cells` of the study give, each run read once."""
        own = self.client.get_experiment_by_name(study)
        cells = self.cells(study)
        others = [e.experiment_id for e in self._experiments() if own is None or e.experiment_id != own.experiment_id]
        here = own is not None and own.lifecycle_stage == "active"
        complete = [c for c in cells if here and c.status == "FINISHED" and c.tags.get("outcome") == "complete"]
        return records.finished(complete + self._records(others, FINISHED)), cells

    def state_folder(self, study: str) -> Path:
        """Where the study keeps journal and checkpoints: beside an SQLite file, else in the working directory."""
        return (self.folder or Path.cwd()) / ".tune_lt" / study

    def write_ahead(self) -> bool:
        """Let SQLite append to a log beside its file (WAL), where a commit need not wait for the disk; whether it does.

        For the one who is about to write a lot. What is committed survives the death of every process, a power failure
        only after `sync`. Not where the file may be on another machine's disk: such a log is shared through memory.
        """
        engine = self._engine()
        return engine is not None and sqlite.write_ahead(engine)

    def sync(self) -> None:
        """Have all that is committed on the disk, as it is at once without `write_ahead`."""
        engine = self._engine()
        if engine is not None:
            sqlite.sync(engine)

    def write_through(self) -> None:
        """End `write_ahead`: the store is one file again, which can be copied. While others have it open it waits."""
        engine = self._engine()
        if engine is not None:
            sqlite.write_through(engine)

    def _engine(self) -> Engine | None:
        """MLflow's own way to an SQLite file; None for another store."""
        return self.client.raw._tracking_client.store.engine if self.folder else None

    def _of(self, study: str, condition: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name(study)
        return (
            [run for page in self._pages([experiment.experiment_id], condition) for run in page] if experiment else []
        )

    def _records_of(self, study: str, condition: str) -> list[CellRecord]:
        experiment = self.client.get_experiment_by_name(study)
        return self._records([experiment.experiment_id] if experiment else [], condition)

    def _experiments(self) -> list[Any]:
        return list(self.client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=10_000))

    def _records(self, experiments: list[str], condition: str) -> list[CellRecord]:
        with _garbage_kept():
            runs = (records.record_of(run) for page in self._pages(experiments, condition) for run in page)
            found = {record.run_id: record for record in runs}  # a run begun meanwhile moves one to the next page too
        return list(found.values())

    def _pages(self, experiments: list[str], condition: str) -> Iterator[list[Run]]:
        token: str | None = None
        while experiments:
            page = self.client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
            yield page
            token = page.token
            if not token:
                break


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Without Python's garbage collector, which would look through thousands of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
