"""Several hosts on this machine, each a network namespace of Linux, joined by one switch: they can be cut off."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

PREFIX = "10.77.0"


class Hosts:
    """Hosts by name, with the addresses `at` tells; this machine itself is on their switch, at .1.

    Needs root and `ip`. What `start` started on them ends with `close`, and nothing of them stays behind.
    """

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self._mark = f"tl{os.getpid()}"
        self._names, self._folder = names, folder
        self._log = 0
        self.processes: dict[str, list[subprocess.Popen[bytes]]] = {name: [] for name in names}
        switch = self.space("switch")
        _clear()
        try:
            _ip("netns", "add", switch)
            _ip("-n", switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", switch, "link", "set", "br0", "up")
            _ip("link", "add", self._mark, "type", "veth", "peer", "name", "here", "netns", switch)
            _ip("-n", switch, "link", "set", "here", "master", "br0", "up")
            _ip("addr", "add", f"{PREFIX}.1/24", "dev", self._mark)
            _ip("link", "set", self._mark, "up")
            for name in names:
                space = self.space(name)
                _ip("netns", "add", space)
                _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", switch)
                _ip("-n", switch, "link", "set", name, "master", "br0", "up")
                _ip("-n", space, "addr", "add", f"{self.at(name)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", space, "link", "set", device, "up")
        except BaseException:
            self.close()
            raise

    def at(self, name: str) -> str:
        """The address of a host."""
        return f"{PREFIX}.{self._names.index(name) + 10}"

    def log(self, name: str) -> Path:
        """Everything that was printed on a host."""
        return self._folder / f"{name}.txt"

    def start(
        self, name: str, command: list[str], env: Mapping[str, str], binds: Mapping[Path, Path] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process there. ``binds``: folders seen at other paths; its shared memory is its own."""
        mounts = "".join(f"mount --bind '{source}' '{target}' && " for source, target in (binds or {}).items())
        shell = f'mount -t tmpfs tmpfs /dev/shm && {mounts}exec "$@"'
        inside = ["ip", "netns", "exec", self.space(name), "sh", "-c", shell, "sh", *command]
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                inside, cwd=self._folder, env=dict(env), stdout=log, stderr=log, start_new_session=True
            )
        self.processes[name].append(process)
        return process

    def cut(self, name: str) -> None:
        """Pull a host's cable out: its processes go on, and nobody hears of them."""
        _ip("-n", self.space("switch"), "link", "set", name, "down")

    def join(self, name: str) -> None:
        """Put it in again."""
        _ip("-n", self.space("switch"), "link", "set", name, "up")

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End every process of a host, and wait for it."""
        for process in self.processes[name]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
        for process in self.processes[name]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        until = time.monotonic() + 20
        while (left := self.running(name)) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for process in self.processes[name]:
            process.wait(20)
        self.processes[name].clear()

    def running(self, name: str) -> list[int]:
        """The ids of the processes on a host."""
        told = subprocess.run(["ip", "netns", "pids", self.space(name)], capture_output=True, text=True)
        return [int(pid) for pid in told.stdout.split()]

    def close(self) -> None:
        """End everything and take the hosts away."""
        for name in self._names:
            self.stop(name)
        subprocess.run(["ip", "link", "del", self._mark], capture_output=True)
        for name in (*self._names, "switch"):
            subprocess.run(["ip", "netns", "del", self.space(name)], capture_output=True)

    def space(self, name: str) -> str:
        """What Linux calls the network namespace of a host."""
        return f"{self._mark}-{name}"


def _clear() -> None:
    """Take away what a run of the tests that was killed has left."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for space, owner in re.findall(r"^(tl(\d+)-\w[\w-]*)", listed, re.MULTILINE):
        if not Path("/proc", owner).exists():
            left = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout
            for pid in left.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
