"""One driver for a study at a time: a tag on the study's run, which the driver renews while it lives."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from typing import Any

from tune_lt.errors import InputError
from tune_lt.store import TAG, Store

LEASE = f"{TAG}lease"
LIFE_SECONDS = 60.0
RENEW_SECONDS = 10.0
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
        if before and alive(before):
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
    text = client.get_run(run_id).data.tags.get(LEASE, "")
    return json.loads(text) if text else None


def described(holder: dict[str, Any]) -> str:
    """A lease's holder in words."""
    return f"process {holder['pid']} on {holder['host']} (last sign of life {time.time() - holder['at']:.0f} s ago)"


def alive(holder: dict[str, Any]) -> bool:
    """Whether a lease's holder still lives, as far as this host can tell."""
    if time.time() - holder["at"] > LIFE_SECONDS:
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
