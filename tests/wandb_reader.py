"""Reads the file of an offline W&B run back, so that tests see what a W&B server would receive.

The file is a LevelDB log (blocks of 32 KiB; each fragment has a checksum, a size and a kind) of protobuf records, after
a header of seven bytes. wandb ships the record's definition, but no public reader.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one offline folder of W&B holds; `exit_code` is None if the run never finished."""

    folder: Path
    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)  # metric name or pattern -> its x-axis
    files: list[str] = field(default_factory=list)
    artifacts: list[tuple[str, str]] = field(default_factory=list)  # name, type
    exit_code: int | None = None

    def rows(self, *names: str) -> list[tuple[Any, ...]]:
        """The named values of each history row that has them all."""
        return [tuple(row[name] for name in names) for row in self.history if all(name in row for name in names)]


def offline_runs(run_dir: Path, *, killed: int = 0, timeout: float = 20.0) -> list[OfflineRun]:
    """The offline runs under a run's folder, in the order they were started.

    `Run.finish` may return a moment before W&B's own process has written the end of the file, so this waits until
    all runs but `killed` of them have ended.
    """
    deadline = time.monotonic() + timeout
    while True:
        files = sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
        runs = [read_run(path) for path in files]
        n_open = sum(run.exit_code is None for run in runs)
        if n_open == killed:
            return runs
        assert time.monotonic() < deadline, f"{n_open} runs in {run_dir} have no exit record; {killed} were expected"
        time.sleep(0.02)


def read_run(path: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun(folder=path.parent)
    for message in _messages(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        match record.WhichOneof("record_type"):
            case "run":
                run.id, run.project, run.name = record.run.run_id, record.run.project, record.run.display_name
                run.group, run.job_type, run.tags = record.run.run_group, record.run.job_type, list(record.run.tags)
                _update(run.config, record.run.config.update)
            case "config":
                _update(run.config, record.config.update)
            case "history":
                row: dict[str, Any] = {}
                _update(row, record.history.item)
                run.history.append(row)
            case "summary":
                _update(run.summary, record.summary.update)
            case "metric":
                run.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "files":
                run.files += [file.path for file in record.files.files]
            case "request" | "artifact":
                artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
                if artifact.name:
                    run.artifacts.append((artifact.name, artifact.type))
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)


def _messages(data: bytes) -> Iterator[bytes]:
    """The serialised records, up to where a killed process left the file."""
    if len(data) < 7:
        return
    mark, magic, version = struct.unpack_from("<4sHB", data)
    assert (mark, magic, version) == (b":W&B", 0xBEE1, 0), f"not a W&B file: {data[:7]!r}"
    position, parts = 7, []
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:  # too little for another fragment: zeros up to the block's end
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        payload = data[position + 7 : position + 7 + size]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(payload) < size:
            return
        assert zlib.crc32(payload, zlib.crc32(bytes([kind]))) == checksum, f"bad checksum at byte {position}"
        position += 7 + size
        parts = [payload] if kind in (FULL, FIRST) else [*parts, payload]
        if kind in (FULL, LAST):
            yield b"".join(parts)
