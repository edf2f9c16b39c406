"""A write-ahead log: every record of a study goes to a file first, then to the store, in order and exactly once.

The driver appends each record to the file and goes on; a thread sends it to the store, and tries again while the store
does not answer. If the driver is killed, the next driver sends what is left in the file before anything else. A record
may be sent twice without effect: a run is looked up by its key before it is created, MLflow keeps one of two equal
metrics (they have the time at which they were recorded), and an epoch that the store has is not sent again.

If the store refuses a record, for example because the study's experiment was deleted, nothing more is sent: the study
stops, and its records stay in the file until the store takes them. Only records of a deleted cell's run are left out.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from tune_lt.errors import InputError
from tune_lt.store import TAG, Store, redacted, refused, sqlite
from tune_lt.texts import first_line

STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # MLflow's status for an outcome; FINISHED for the others
CHUNK = 100  # records that are sent together, so that those of one run need few calls
ENTITIES, PARAMS = 1000, 100  # that MLflow accepts in one call
LAST_METRIC = "train/loss"  # the last to be sent of an epoch's metrics: an epoch that has it is in the store
LONGEST_PAUSE_SECONDS = 10.0
PATIENCE_SECONDS = 90.0
IDLE_SECONDS = 0.2
JOIN_SECONDS = 3.0  # for the sending thread, which may be waiting for an answer of the server
JOURNAL, SENT = "journal.jsonl", "journal.sent"  # the file, and how many of its bytes are known to be sent
RESUME = "run the study again once there is room, nothing that is recorded is lost"


@dataclass
class _Batch:
    """What is to be sent of one run. ``epoch`` is the last epoch among the metrics, 0 if there are none."""

    params: list[Param] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    epoch: int = 0
    tags: dict[str, str] = field(default_factory=dict)


class Journal:
    """The records of one study on their way to the store. Recording raises InputError when the disk is full.

    ``folder`` holds the file. ``say`` is called with a line when the store stops answering and when it answers again.
    ``beat`` is called often from the sending thread. ``runs`` is the study's `Cells.runs_by_key`; it is read here if it
    is not given. Records that an earlier driver did not send are sent first; ``inherited`` is their number.
    ``deleted``: the keys of runs that were deleted from the store while they had records to come.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        parent: str,
        folder: Path,
        *,
        say: Callable[[str], None] = print,
        beat: Callable[[], None] = lambda: None,
        runs: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store, self._study, self._parent, self._say, self._beat = store, study, parent, say, beat
        self._client = store.client.raw  # without retries, which the sending thread makes itself
        self._experiment = store.experiment(study)
        self._runs = {**(store.cells(study).runs_by_key() if runs is None else runs), parent: parent}
        self._places: dict[str, str] = {}  # artifact URIs of the runs that this driver created and that have not ended
        self._last_epoch: dict[str, int] = {}  # the last epoch that the store has of each run that has not ended
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], int]] = queue.SimpleQueue()
        self.deleted: set[str] = set()
        self._refused = ""  # why the store takes no more records
        self._closing = False
        self._lock = threading.Lock()
        self._path, self._sent_path = folder / JOURNAL, folder / SENT
        lines, position = unsent(folder)
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 closed in close(); unbuffered: survives a kill
        self._file.truncate(position + len(lines))
        if position != _position(self._sent_path):
            self._sent_path.write_text(str(position))
        for line in lines.splitlines(keepends=True):
            position += len(line)
            try:
                self._queue.put((json.loads(line), position))
            except ValueError:  # a power failure may leave a hole in the file; the records around it still count
                self._say(f"a damaged record in {self._path} is left out")
        self._waiting = self.inherited = self._queue.qsize()
        sqlite.write_ahead(store.engine)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin the run with this key, or go on with it if it exists."""
        texts = {path: str(value) for path, value in params.items()}
        self._append({"op": "start", "key": key, "name": name, "params": texts, "tags": dict(tags)})

    def epoch(self, key: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one epoch."""
        self._append({"op": "epoch", "key": key, "epoch": epoch, "metrics": dict(metrics)})

    def note(self, tags: Mapping[str, str]) -> None:
        """Set tags of the study's parent run."""
        self._append({"op": "note", "key": self._parent, "tags": dict(tags)})

    def end(self, key: str, outcome: str, tags: Mapping[str, str], artifacts: Mapping[str, Any] | None = None) -> None:
        """End a run. ``outcome``: complete, pruned, interrupted or failed; ``artifacts``: file name -> JSON content."""
        tags = {"outcome": outcome, **tags}
        self._append({"op": "end", "key": key, "tags": tags, "artifacts": dict(artifacts or {})})

    def take(self, records: Iterable[dict[str, Any]]) -> None:
        """Record what another machine has recorded, with the times it has there."""
        for record in records:
            self._append(dict(record))

    def check(self) -> None:
        """Raise InputError if the store has refused a record: then the study must stop."""
        if self._refused:
            kept = f"{self._waiting} records are kept in {self._path} and sent when the study is run again"
            raise InputError(f"{self._refused}; {kept if self._waiting else 'every record is in the store'}")

    def drain(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until everything is in the store.

        Raises InputError if it refuses a record, or takes none for ``patience`` seconds.
        """
        until, before = time.monotonic() + patience, self._waiting
        while self._waiting and self._thread.is_alive():
            if self._waiting < before:
                until, before = time.monotonic() + patience, self._waiting
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        self.check()
        if self._waiting:
            raise InputError(
                f"{self._waiting} records could not be sent to the store {self._store.shown}; "
                f"they are kept in {self._path} and sent when the study is run again"
            )

    def close(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait as `drain` does, then stop. Does it once."""
        if self._closing:
            return
        try:
            self.drain(patience)
        finally:
            self._closing = True
            self._thread.join(JOIN_SECONDS)
            self._file.close()
            sqlite.write_through(self._store.engine)
        self._path.unlink(missing_ok=True)
        self._sent_path.unlink(missing_ok=True)

    def _append(self, record: dict[str, Any]) -> None:
        record.setdefault("at", int(time.time() * 1000))
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            try:
                written = self._file.write(line)
            except OSError as error:
                raise InputError(f"{self._path} cannot be written: {error.strerror}; {RESUME}") from None
            if written != len(line):
                self._file.truncate(self._file.tell() - (written or 0))
                raise InputError(f"{self._path} cannot be written: the disk is full; {RESUME}")
            end = self._file.tell()
            self._waiting += 1
        self._queue.put((record, end))

    def _work(self) -> None:
        while not self._refused and (not self._closing or not self._queue.empty()):
            items = []
            with contextlib.suppress(queue.Empty):
                items.append(self._queue.get(timeout=IDLE_SECONDS))
                while len(items) < CHUNK:
                    items.append(self._queue.get_nowait())
            if items:
                if not self._send_until_done([record for record, _ in items]):
                    return  # later records must not be sent before these
                with contextlib.suppress(OSError):  # on a full disk the next driver sends these again, without effect
                    sqlite.sync(self._store.engine)  # first: after a power failure the store must have what SENT says
                    self._sent_path.write_text(str(items[-1][1]))
                with self._lock:
                    self._waiting -= len(items)
            self._try_beat()

    def _send_until_done(self, records: list[dict[str, Any]]) -> bool:
        """Send, and try again while the store does not answer.

        False if the store refuses a record, or if the journal is closed before it answers.
        """
        pause, said = 0.5, False
        while True:
            try:
                if not self._try(records):
                    if len(records) > 1:  # one by one, to find the record that is refused
                        return all(self._send_until_done([record]) for record in records)
                    return False
                break
            except Exception as error:
                if self._closing:
                    return False
                if not said:
                    why = redacted(first_line(error), self._store.uri)[:200]
                    self._say(f"the store does not answer; records wait in {self._path} ({why})")
                    said = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        if said:
            self._say("the store answers again; everything recorded meanwhile is sent")
        return True

    def _try(self, records: list[dict[str, Any]]) -> bool:
        """Send, or find out why the store refuses it. Raises what MLflow raises if the store does not answer."""
        try:
            self._send(records)
        except Exception as error:
            if not refused(error):
                raise
            return len(records) == 1 and self._is_left_out(records[0], error)
        return True

    def _is_left_out(self, record: dict[str, Any], error: Exception) -> bool:
        """Whether a record was refused because the run of its cell was deleted. Otherwise nothing more is sent."""
        key, lost = self._key(record), ""
        if key != self._parent and not self._store.deleted(self._study, self._experiment, self._parent):
            gone = f"a run of the study {self._study!r} is no longer in the store"
            run_id = self._runs.get(key)
            lost = self._store.deleted(self._study, self._experiment, run_id) if run_id else gone
        if not lost:
            self._refused = self._why(error)
            return False
        self.deleted.add(key)
        self._say(f"{lost}; what is still recorded of it is left out, the next run of the study trains it again")
        return True

    def _why(self, error: Exception) -> str:
        """Why the store takes nothing more. Raises what MLflow raises if it does not answer."""
        reason = redacted(first_line(error), self._store.uri)
        refusal = f"the store {self._store.shown} refused a record ({reason}); if it always does, delete {self._path}"
        return self._store.deleted(self._study, self._experiment, self._parent) or refusal

    def _key(self, record: Mapping[str, Any]) -> str:
        return self._parent if record.get("op") == "note" else str(record.get("key"))

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send records in order, those of one run together."""
        batches: defaultdict[str, _Batch] = defaultdict(_Batch)
        for record in records:
            self._try_beat()
            key = self._key(record)
            if key in self.deleted:
                continue
            if record["op"] == "epoch":
                self._add_epoch(key, batches[key], record)
            elif record["op"] == "start":
                self._send_batch(key, batches.pop(key, _Batch()))
                self._send_start(key, record)
                batches[key].params += [Param(path, value) for path, value in record["params"].items()]
            else:
                batches[key].tags |= record["tags"]
                if record["op"] == "end":
                    self._send_end(key, batches.pop(key), record)
        for key, batch in batches.items():
            self._try_beat()
            self._send_batch(key, batch)

    def _add_epoch(self, key: str, batch: _Batch, record: dict[str, Any]) -> None:
        """Leave out an epoch that the store has, as a trial repeats it that goes on from an older state."""
        if record["epoch"] > max(batch.epoch, self._last_epoch.get(key, 0)):
            values = sorted(record["metrics"].items(), key=lambda metric: metric[0] == LAST_METRIC)
            batch.metrics += [Metric(name, value, record["at"], record["epoch"]) for name, value in values]
            batch.epoch = record["epoch"]

    def _send_start(self, key: str, record: dict[str, Any]) -> None:
        if key in self._runs:
            self._adopt(key)
            return
        tags = {"mlflow.runName": record["name"], "mlflow.parentRunId": self._parent, f"{TAG}key": key}
        tags |= {f"{TAG}{tag}": value for tag, value in record["tags"].items()}
        run = self._client.create_run(self._experiment, start_time=record["at"], tags=tags)
        self._runs[key], self._places[key] = run.info.run_id, run.info.artifact_uri

    def _adopt(self, key: str) -> None:
        """Go on with the run that an earlier driver or an earlier attempt began."""
        if key not in self._last_epoch:
            history = self._client.get_metric_history(self._runs[key], LAST_METRIC)
            self._last_epoch[key] = max((point.step for point in history), default=0)
        self._client.log_batch(self._runs[key], tags=[RunTag(f"{TAG}outcome", "running")])
        self._client.update_run(self._runs[key], status="RUNNING")

    def _send_batch(self, key: str, batch: _Batch) -> None:
        """Send the batch in one call. MLflow splits what is too much for one; the tags are then sent after the rest."""
        metrics, params = batch.metrics, batch.params
        tags = [RunTag(f"{TAG}{name}", value) for name, value in batch.tags.items()]
        if len(params) > PARAMS or len(metrics) + len(params) + len(tags) > ENTITIES:
            self._client.log_batch(self._runs[key], metrics=metrics, params=params)
            metrics, params = [], []
        if metrics or params or tags:
            self._client.log_batch(self._runs[key], metrics=metrics, params=params, tags=tags)
        if batch.epoch:
            self._last_epoch[key] = batch.epoch

    def _send_end(self, key: str, batch: _Batch, record: dict[str, Any]) -> None:
        run_id = self._runs[key]
        if record["artifacts"]:
            place = self._places.get(key) or self._client.get_run(run_id).info.artifact_uri
            for file, content in record["artifacts"].items():
                self._store.put_json(place, file, content)
        self._send_batch(key, batch)
        status = STATUS.get(record["tags"]["outcome"], "FINISHED")
        self._client.set_terminated(run_id, status, end_time=record["at"])
        self._places.pop(key, None)
        self._last_epoch.pop(key, None)

    def _try_beat(self) -> None:
        try:
            self._beat()
        except Exception as error:
            with contextlib.suppress(Exception):  # where the store does not answer, the next beat may succeed
                self._refused = self._refused or (self._why(error) if refused(error) else "")


def unsent(folder: Path) -> tuple[bytes, int]:
    """The journal's lines that are not known to be sent, and the position in the file at which they begin.

    A last line that a crash cut short is left out.
    """
    file, sent = folder / JOURNAL, folder / SENT
    content = file.read_bytes() if file.exists() else b""
    whole = content.rfind(b"\n") + 1
    position = min(_position(sent), whole)  # a power failure may have taken lines that were sent
    return content[position:whole], position


def _position(sent: Path) -> int:
    """How much of the journal is sent; 0 where the file is missing or damaged: to send it again has no effect."""
    try:
        return max(0, int(sent.read_text()))
    except (OSError, ValueError):
        return 0
