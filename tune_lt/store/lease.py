"""One driver for a study at a time: a tag on the study's run, renewed while the driver lives."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from typing import Any

from tune_lt.errors import InputError
from tune_lt.store import TAG, Store

LEASE = f"{TAG}lease"
LIFE_SECONDS = 60.0
RENEW_SECONDS = 10.0
SETTLE_SECONDS = 0.3


class Lease:
    """Held by the process that runs a study. A dead driver's lease ends at once on its own host, elsewhere in a minute.

    Raises InputError if another driver that is alive holds it.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._owner = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._renewed = 0.0
        self.lost = False
        holder = self._holder()
        if holder and alive(holder):
            raise InputError(
                f"the study is being run by process {holder['pid']} on {holder['host']} "
                f"(last sign of life {time.time() - holder['at']:.0f} s ago); wait for it or stop it"
            )
        self._write(store.client)
        time.sleep(SETTLE_SECONDS)  # of two that start in the same moment, the last to write has it
        now = self._holder()
        if now is None or now["id"] != self._owner["id"]:
            raise InputError("another driver has just started this study; wait for it or stop it")

    def renew(self) -> None:
        """Called often; writes every few seconds. Sets ``lost`` when another driver has taken over.

        One try, however patient the store's client is: what is being recorded must not wait for it.
        """
        if self.lost or time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        client = self._store.client.raw
        holder = _read(client, self._run_id)
        if holder is not None and holder["id"] != self._owner["id"]:
            self.lost = True
            return
        self._write(client)

    def release(self) -> None:
        if not self.lost:
            self._store.tag(self._run_id, {LEASE: ""})

    def _write(self, client: Any) -> None:
        client.set_tag(self._run_id, LEASE, json.dumps(self._owner | {"at": time.time()}))
        self._renewed = time.monotonic()

    def _holder(self) -> dict[str, Any] | None:
        return holder(self._store, self._run_id)


def holder(store: Store, run_id: str) -> dict[str, Any] | None:
    """Who holds the study's lease: its ``id``, ``host``, ``pid`` and ``at``, the last sign of life; or None."""
    return _read(store.client, run_id)


def _read(client: Any, run_id: str) -> dict[str, Any] | None:
    text = client.get_run(run_id).data.tags.get(LEASE, "")
    return json.loads(text) if text else None


def alive(holder: dict[str, Any]) -> bool:
    """Whether a lease's holder still lives, as far as can be told from here."""
    if time.time() - holder["at"] > LIFE_SECONDS:
        return False
    if holder["host"] != socket.gethostname():
        return True
    if holder["pid"] == os.getpid():
        return False  # an earlier process with our number, as in a container that was restarted
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
