"""The stand-in W&B server (fake_wandb.py) as a process beside the tests, and what a run looks like there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "k" * 40


class Server:
    """A running server; `address` is where it listens, whether it runs or not."""

    def __init__(self, store: Path, keys: str = "") -> None:
        self.store, self._keys = store, keys
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fake_wandb.py"))]
        command += ["--port", str(self.port), "--store", str(self.store), "--keys", self._keys]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert "fake W&B" in self._process.stdout.readline()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def control(self, **wanted: Any) -> None:
        """Let it misbehave: see fake_wandb.py."""
        request = urllib.request.Request(f"{self.address}/_control", json.dumps(wanted).encode(), method="POST")
        urllib.request.urlopen(request, timeout=10).read()

    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY}

    def runs(self) -> list[dict[str, Any]]:
        """What the server has, in the order in which the runs began."""
        found = [json.loads(path.read_text()) for path in (self.store / "runs").glob("*/*/*.json")]
        return sorted(found, key=lambda run: run["created"])

    def run(self) -> dict[str, Any]:
        (only,) = self.runs()
        return only

    def artifacts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.store.glob("artifacts/*/artifact.json"))]

    def wait_for_rows(self, n: int, seconds: float = 40.0) -> None:
        """Until it has so many rows of its only run; the SDK sends them every fifteen seconds."""
        end = time.monotonic() + seconds
        while not (self.runs() and len(self.run()["history"]) >= n):
            assert time.monotonic() < end, f"{[len(run['history']) for run in self.runs()]} rows came"
            time.sleep(0.1)


@contextlib.contextmanager
def server(store: Path, keys: str = "") -> Iterator[Server]:
    made = Server(store, keys)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def rows(run: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """The named values of each row that has them all."""
    return [tuple(row[name] for name in names) for row in run["history"] if all(name in row for name in names)]


def sync(*folders: Path, environment: dict[str, str]) -> str:
    """What `wandb sync` says, which has to succeed."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, folders)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=60
    ).stderr
