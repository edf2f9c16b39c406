"""Every record on disk first, then in the store: in order, once, whatever dies in between.

The driver appends what happens to a file and returns; a thread sends it on. A driver that is killed leaves the file,
and the next one sends the rest before anything else. A store that is away is tried again until it is back. Sending
twice changes nothing: a run is looked up by its key before it is made, a metric carries the time it was recorded at,
and an epoch that a resumed trial repeats is not sent a second time.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from tune_lt.errors import InputError
from tune_lt.tracking import TAG, Store, redacted, refused

STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # MLflow's word for an outcome; FINISHED otherwise
CHUNK = 100  # records sent together, so that the lease is renewed in between
BATCH = 1000  # metrics in one log_batch, MLflow's limit
PARAMETERS = 100  # likewise
LONGEST_PAUSE_SECONDS = 10.0
PATIENCE_SECONDS = 90.0
IDLE_SECONDS = 0.5
RESUME = "run the study again once there is room, nothing that is recorded is lost"


class Journal:
    """The records of one study on their way to the store. Recording raises InputError when the disk is full.

    ``folder`` holds the file; ``say`` hears of trouble and of its end; ``beat`` is called every half second or so from
    the sending thread. Opening it begins to send what an earlier driver left behind.
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
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store, self._parent, self._say, self._beat = store, parent, say, beat
        self._client = store.client.raw  # this thread has a patience of its own
        self._experiment = store.experiment(study)
        self._runs = store.runs_by_key(study)
        self._last_epoch: dict[str, int] = {}
        self._path, self._sent_path = folder / "journal.jsonl", folder / "journal.sent"
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], int] | None] = queue.SimpleQueue()
        self._refused: Exception | None = None
        self._waiting = 0
        self._closing = False
        self._lock = threading.Lock()
        for record, end in self._unsent():
            self._waiting += 1
            self._queue.put((record, end))
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

    def end(self, key: str, outcome: str, tags: Mapping[str, str], artifact: Mapping[str, Any] | None = None) -> None:
        """End the cell: ``outcome`` is complete, pruned, interrupted or failed."""
        tags = {"outcome": outcome, **tags}
        self._append({"op": "end", "key": key, "tags": tags, "artifact": dict(artifact) if artifact else None})

    def drain(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until everything is in the store. Raises InputError if nothing arrives for ``patience`` seconds."""
        until, before = time.monotonic() + patience, self._waiting
        while self._waiting and self._thread.is_alive():
            if self._waiting < before:  # slow is not away
                until, before = time.monotonic() + patience, self._waiting
            if time.monotonic() > until:
                raise InputError(
                    f"{self._waiting} records could not be sent to the store {self._store.shown}; "
                    f"they are kept in {self._path} and sent when the study is run again"
                )
            time.sleep(0.02)

    def close(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait as `drain` does, then stop. Raises InputError for records the store refused, too."""
        try:
            self.drain(patience)
        finally:
            self._queue.put(None)
            self._closing = True
            self._thread.join()
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._sent_path.unlink(missing_ok=True)
        if self._refused is not None:
            raise InputError(f"the store {self._store.shown} refused a record: {redacted(str(self._refused))}")

    def _append(self, record: dict[str, Any]) -> None:
        record["at"] = int(time.time() * 1000)
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
                    self._say(f"the store does not answer; records wait in {self._path} ({_first_line(error)})")
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if told:
                self._say("the store answers again; everything recorded meanwhile is sent")
            return True

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send records in order, the metrics of one run together."""
        metrics: dict[str, list[Metric]] = {}
        for record in records:
            key = record["key"]
            if record["op"] == "epoch":
                if record["epoch"] > self._last_epoch.get(key, 0):
                    batch = metrics.setdefault(key, [])
                    batch += [Metric(name, v, record["at"], record["epoch"]) for name, v in record["metrics"].items()]
                continue
            self._send_metrics(key, metrics.pop(key, []))
            if record["op"] == "start":
                self._send_start(key, record)
            elif record["op"] == "end":
                self._send_end(key, record)
            else:
                self._tag(self._parent, record["tags"])
        for key, batch in metrics.items():
            self._send_metrics(key, batch)

    def _send_start(self, key: str, record: dict[str, Any]) -> None:
        client = self._client
        if key in self._runs:
            self._adopt(key)
        else:
            tags = {"mlflow.runName": record["name"], "mlflow.parentRunId": self._parent, f"{TAG}key": key}
            tags |= {f"{TAG}{tag}": value for tag, value in record["tags"].items()}
            run = client.create_run(self._experiment, start_time=record["at"], tags=tags)
            self._runs[key] = run.info.run_id
        params = [Param(path, value) for path, value in record["params"].items()]
        for first in range(0, len(params), PARAMETERS):
            client.log_batch(self._runs[key], params=params[first : first + PARAMETERS])

    def _adopt(self, key: str) -> None:
        """Go on with the run that an earlier driver, or an earlier attempt, left."""
        if key not in self._last_epoch:
            history = self._client.get_metric_history(self._runs[key], "train/loss")
            self._last_epoch[key] = max((point.step for point in history), default=0)
        self._tag(self._runs[key], {"outcome": "running"})
        self._client.update_run(self._runs[key], status="RUNNING")

    def _send_metrics(self, key: str, metrics: list[Metric]) -> None:
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(self._runs[key], metrics=metrics[first : first + BATCH])
        if metrics:
            self._last_epoch[key] = metrics[-1].step

    def _send_end(self, key: str, record: dict[str, Any]) -> None:
        run_id = self._runs[key]
        if record["artifact"]:
            self._client.log_dict(run_id, record["artifact"], "per_class.json")
        self._tag(run_id, record["tags"])
        status = STATUS.get(record["tags"]["outcome"], "FINISHED")
        self._client.set_terminated(run_id, status, end_time=record["at"])

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._client.log_batch(run_id, tags=[RunTag(f"{TAG}{tag}", value) for tag, value in tags.items()])

    def _try_beat(self) -> None:
        try:
            self._beat()
        except Exception as error:  # the store is away: the next beat may find it back
            if refused(error):
                raise


def _first_line(error: Exception) -> str:
    lines = redacted(str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
