"""Every record on disk first, then in the store: in order, once, whatever dies in between.

The driver appends what happens to a file and returns; a thread sends it on. A driver that is killed leaves the file,
and the next one sends the rest before anything else. A store that is away is tried again until it is back. Sending
twice changes nothing: a run is looked up by its key before it is made, a metric carries the time it was recorded at,
and an epoch that a resumed trial repeats is not sent a second time.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from tune_lt.errors import InputError
from tune_lt.store import TAG, Store, redacted, refused
from tune_lt.texts import first_line

STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # MLflow's word for an outcome; FINISHED otherwise
CHUNK = 100  # records sent together: what a run has among them goes in as few calls as MLflow allows
ENTITIES = 1000  # in one log_batch, MLflow's limit
TEXTS = 100  # of them parameters, and as many tags, likewise
BEAT_SECONDS = 5.0  # at most between two beats while runs are being sent
LONGEST_PAUSE_SECONDS = 10.0
PATIENCE_SECONDS = 90.0
IDLE_SECONDS = 0.5
RESUME = "run the study again once there is room, nothing that is recorded is lost"


@dataclass
class _Batch:
    """What is to be sent of one run, in the order in which it is sent; the epochs' metrics with their numbers."""

    params: list[Param] = field(default_factory=list)
    epochs: list[tuple[int, list[Metric]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def take(self) -> tuple[list[Metric], list[Param], list[RunTag], int]:
        """Metrics, parameters and tags for one call, and the last epoch among them (0 for none).

        An epoch's metrics stay together, so that the last epoch in the store tells what is there.
        """
        params, self.params = self.params[:TEXTS], self.params[TEXTS:]
        metrics: list[Metric] = []
        last, count = 0, 0
        for epoch, values in self.epochs:
            if metrics and len(params) + len(metrics) + len(values) > ENTITIES:
                break
            metrics += values
            last, count = epoch, count + 1
        del self.epochs[:count]
        room = 0 if self.params or self.epochs else max(0, ENTITIES - len(params) - len(metrics))
        names = list(self.tags)[: min(TEXTS, room)]  # the end's tags come last: they say that all the rest is there
        return metrics, params, [RunTag(f"{TAG}{name}", self.tags.pop(name)) for name in names], last


class Journal:
    """The records of one study on their way to the store. Recording raises InputError when the disk is full.

    ``folder`` holds the file; ``say`` hears of trouble and of its end; ``beat`` is called every few seconds, also while
    much is being sent, from the sending thread. ``runs`` is `Cells.runs_by_key` of the study, read here if it is not
    given. Opening it begins to send what an earlier driver left behind: ``inherited`` records.
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
        self._store, self._parent, self._say, self._beat = store, parent, say, beat
        self._client = store.client.raw  # this thread has a patience of its own
        self._experiment = store.experiment(study)
        self._runs = {**(store.cells(study).runs_by_key() if runs is None else runs), parent: parent}
        self._places: dict[str, str] = {}  # key -> the place of the artifacts of a run that has not ended
        self._last_epoch: dict[str, int] = {}  # likewise, the last epoch the store has
        self._beaten = time.monotonic()
        self._path, self._sent_path = folder / "journal.jsonl", folder / "journal.sent"
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], int] | None] = queue.SimpleQueue()
        self._refused: Exception | None = None
        self._waiting = 0
        self._closing = False
        self._lock = threading.Lock()
        for record, end in self._unsent():
            self._waiting += 1
            self._queue.put((record, end))
        self.inherited = self._waiting
        store.write_ahead()
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 closed in close(); unbuffered: survives a kill
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin the cell ``key``, or go on with it where a run of that key exists."""
        texts = {path: str(value) for path, value in params.items()}
        self._append({"op": "start", "key": key, "name": name, "params": texts, "tags": dict(tags)})

    def epoch(self, key: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one epoch."""
        self._append({"op": "epoch", "key": key, "epoch": epoch, "metrics": dict(metrics)})

    def note(self, tags: Mapping[str, str]) -> None:
        """Set tags of the study's own run."""
        self._append({"op": "note", "key": self._parent, "tags": dict(tags)})

    def end(self, key: str, outcome: str, tags: Mapping[str, str], artifacts: Mapping[str, Any] | None = None) -> None:
        """End the cell: ``outcome`` is complete, pruned, interrupted or failed. ``artifacts``: JSON content by file."""
        tags = {"outcome": outcome, **tags}
        self._append({"op": "end", "key": key, "tags": tags, "artifacts": dict(artifacts or {})})

    def take(self, records: Iterable[dict[str, Any]]) -> None:
        """Record what was recorded on another machine, with the times it had there."""
        for record in records:
            self._append(dict(record))

    def drain(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until everything is in the store. Raises InputError if nothing arrives for ``patience`` seconds."""
        until, before = time.monotonic() + patience, self._waiting
        while self._waiting and self._thread.is_alive():
            if self._waiting < before:  # slow is not away
                until, before = time.monotonic() + patience, self._waiting
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        if self._waiting:
            raise InputError(
                f"{self._waiting} records could not be sent to the store {self._store.shown}; "
                f"they are kept in {self._path} and sent when the study is run again"
            )

    def close(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait as `drain` does, then stop. Raises InputError for records the store refused, too."""
        try:
            self.drain(patience)
        finally:
            self._queue.put(None)
            self._closing = True
            self._thread.join()
            self._file.close()
            self._store.write_through()
        self._path.unlink(missing_ok=True)
        self._sent_path.unlink(missing_ok=True)
        if self._refused is not None:
            raise InputError(
                f"the store {self._store.shown} refused a record: {redacted(str(self._refused), self._store.uri)}"
            )

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

    def _unsent(self) -> Iterator[tuple[dict[str, Any], int]]:
        """What the file holds beyond what is known to be sent. A last line cut short by a crash is cut off."""
        if not self._path.exists():
            return
        sent = int(self._sent_path.read_text() or 0) if self._sent_path.exists() else 0
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)
        if whole < sent:  # a power failure took records that the store had: what is written now is not among them
            self._sent_path.write_text(str(whole))
        position = min(sent, whole)
        for line in content[position:whole].splitlines(keepends=True):
            position += len(line)
            try:
                yield json.loads(line), position
            except ValueError:  # a power failure may leave a hole; the rest still counts
                self._say(f"a damaged record in {self._path} is left out")

    def _work(self) -> None:
        while True:
            records: list[dict[str, Any]] = []
            end = 0
            stop = False
            try:
                item = self._queue.get(timeout=IDLE_SECONDS)
                while True:
                    if item is None:
                        stop = True
                        break
                    records.append(item[0])
                    end = item[1]
                    if len(records) >= CHUNK:
                        break
                    item = self._queue.get_nowait()
            except queue.Empty:
                pass
            if records:
                if not self._send_until_done(records):
                    return  # what comes after must not be sent before it
                with contextlib.suppress(OSError):
                    # where the disk is full the next driver sends more twice, which changes nothing
                    self._store.sync()  # first, so that a power failure does not leave the mark ahead of the store
                    self._sent_path.write_text(str(end))
                with self._lock:
                    self._waiting -= len(records)
            self._try_beat()
            if stop:
                return

    def _send_until_done(self, records: list[dict[str, Any]]) -> bool:
        """Send, and try again while the store is away; False if the journal is closed before it is back."""
        pause, told = 0.5, False
        while True:
            try:
                self._send(records)
            except Exception as error:
                if refused(error):
                    if len(records) == 1:
                        self._refused = self._refused or error
                        return True
                    return all(list(map(self._send_until_done, ([record] for record in records))))  # find the one
                if self._closing:
                    return False
                if not told:
                    why = redacted(first_line(error), self._store.uri)[:200]
                    self._say(f"the store does not answer; records wait in {self._path} ({why})")
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if told:
                self._say("the store answers again; everything recorded meanwhile is sent")
            return True

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send records in order, those of one run together."""
        batches: dict[str, _Batch] = {}
        for record in records:
            key = record["key"] if record["op"] != "note" else self._parent
            batch = batches.setdefault(key, _Batch())
            if record["op"] == "epoch":
                self._add_epoch(key, batch, record)
            elif record["op"] == "start":
                self._beat_in_time()
                self._send_batch(key, batch)
                self._send_start(key, record)
                batch.params += [Param(path, value) for path, value in record["params"].items()]
            elif record["op"] == "end":
                self._beat_in_time()
                batch.tags |= record["tags"]
                self._send_end(key, batch, record)
            else:
                batch.tags |= record["tags"]
        for key, batch in batches.items():
            self._beat_in_time()
            self._send_batch(key, batch)

    def _add_epoch(self, key: str, batch: _Batch, record: dict[str, Any]) -> None:
        last = batch.epochs[-1][0] if batch.epochs else self._last_epoch.get(key, 0)
        if record["epoch"] > last:
            values = [Metric(name, value, record["at"], record["epoch"]) for name, value in record["metrics"].items()]
            batch.epochs.append((record["epoch"], values))

    def _send_start(self, key: str, record: dict[str, Any]) -> None:
        if key in self._runs:
            self._adopt(key)
            return
        tags = {"mlflow.runName": record["name"], "mlflow.parentRunId": self._parent, f"{TAG}key": key}
        tags |= {f"{TAG}{tag}": value for tag, value in record["tags"].items()}
        run = self._client.create_run(self._experiment, start_time=record["at"], tags=tags)
        self._runs[key], self._places[key] = run.info.run_id, run.info.artifact_uri

    def _adopt(self, key: str) -> None:
        """Go on with the run that an earlier driver, or an earlier attempt, left."""
        if key not in self._last_epoch:
            history = self._client.get_metric_history(self._runs[key], "train/loss")
            self._last_epoch[key] = max((point.step for point in history), default=0)
        self._client.log_batch(self._runs[key], tags=[RunTag(f"{TAG}outcome", "running")])
        self._client.update_run(self._runs[key], status="RUNNING")

    def _send_batch(self, key: str, batch: _Batch) -> None:
        """Empty the batch, in as few calls as MLflow's limits allow."""
        while batch.params or batch.epochs or batch.tags:
            metrics, params, tags, last = batch.take()
            self._client.log_batch(self._runs[key], metrics=metrics, params=params, tags=tags)
            if last:
                self._last_epoch[key] = last

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

    def _beat_in_time(self) -> None:
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._try_beat()

    def _try_beat(self) -> None:
        self._beaten = time.monotonic()
        try:
            self._beat()
        except Exception as error:  # the store is away: the next beat may find it back
            if refused(error):
                self._refused = self._refused or error
