"""One driver for a study at a time: a tag on the study's run, which the driver renews while it lives."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from typing import Any

from mlflow.entities import Run

from tune_lt.errors import InputError
from tune_lt.store import TAG, Store

LEASE = f"{TAG}lease"
LIFE_SECONDS = 60.0
RENEW_SECONDS = 10.0
WATCH_SECONDS = 25.0  # twice as long as a living driver takes to renew it, and some more
SETTLE_SECONDS = 0.3


class Lease:
    """Held by the process that runs a study. It ends at once if that process died on this host, elsewhere in a minute.

    Raises InputError if a driver that is alive holds it.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._owner = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._tried = time.monotonic()
        self.lost = False
        before = holder(store.client, run_id)
        if before and lives(store.client, run_id, before):
            raise InputError(f"the study is being run by {described(before)}; wait for it or stop it")
        self._write(store.client)
        time.sleep(SETTLE_SECONDS)  # of two drivers that start at the same moment, the last to write has the lease
        now = holder(store.client, run_id)
        if now is None or now["id"] != self._owner["id"]:
            raise InputError("another driver has just started this study; wait for it or stop it")

    def renew(self) -> None:
        """Write the tag again if the last try was `RENEW_SECONDS` ago; set ``lost`` if another driver has taken over.

        It tries once and never waits for a store that is away, since the thread that calls it has records to send.
        """
        if self.lost or time.monotonic() - self._tried < RENEW_SECONDS:
            return
        self._tried = time.monotonic()
        client = self._store.client.raw
        now = holder(client, self._run_id)
        if now is not None and now["id"] != self._owner["id"]:
            self.lost = True
        else:
            self._write(client)

    def release(self) -> None:
        if not self.lost:
            self._store.tag(self._run_id, {LEASE: ""})

    def _write(self, client: Any) -> None:
        client.set_tag(self._run_id, LEASE, json.dumps(self._owner | {"at": time.time()}))


def holder(client: Any, run_id: str) -> dict[str, Any] | None:
    """The holder of a study's lease: ``id``, ``host``, ``pid`` and ``at``, the time of its last renewal; or None."""
    return _holder_in(client.get_run(run_id))


def _holder_in(run: Run) -> dict[str, Any] | None:
    text = run.data.tags.get(LEASE, "")
    return json.loads(text) if text else None


def described(holder: dict[str, Any]) -> str:
    """A lease's holder in words."""
    ago = time.time() - holder["at"]
    last = f"last sign of life {ago:.0f} s ago" if ago >= 0 else f"its clock is {-ago:.0f} s ahead of ours"
    return f"process {holder['pid']} on {holder['host']} ({last})"


def state(run: Run) -> str:
    """Whether a driver works on a study, in words. ``run``: the study's own, which has not ended."""
    held = _holder_in(run)
    if held and alive(held):
        return f"running, by {described(held)}"
    elsewhere = held and held["host"] != socket.gethostname()
    if held and elsewhere and held["at"] > time.time():
        return f"running, if {described(held)} is alive"
    driver = f"its driver, {described(held)}, has died" if held else "its driver has died"
    driver += ", if its clock is right" if elsewhere else ""
    return f"stopped, {driver}; tune-lt run goes on with it"


def alive(holder: dict[str, Any]) -> bool:
    """Whether a lease's holder still lives, as far as this host and its clock can tell."""
    if abs(time.time() - holder["at"]) > LIFE_SECONDS:
        return False
    if holder["host"] != socket.gethostname():
        return True
    if holder["pid"] == os.getpid():
        return False  # an earlier process that had our number, as in a container that was restarted
    try:
        with suppress(PermissionError):  # another user's process
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    return True


def lives(client: Any, run_id: str, held: dict[str, Any]) -> bool:
    """Whether a lease's holder still lives. Where clocks differ, or the store was away, only a renewal shows it.

    Takes up to `WATCH_SECONDS`, if the holder is on another host.
    """
    until = time.monotonic() + WATCH_SECONDS
    while not alive(held):
        if held["host"] == socket.gethostname() or time.monotonic() > until:
            return False
        time.sleep(SETTLE_SECONDS)
        now = holder(client, run_id)
        if now != held:
            return now is not None
    return True
