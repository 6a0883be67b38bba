"""A stand-in for the Weights & Biases servers, for tests of programs that use the wandb SDK (written for 0.31).

    python fake_wandb.py --port 9200 --store store [--keys HEX,HEX] [--features NAME,NAME] [--mode MODE ...]

It listens on 127.0.0.1 only. A client is pointed at it with WANDB_BASE_URL=http://127.0.0.1:9200 and any key of 40
letters in WANDB_API_KEY. What arrives is kept as plain files under the store:

    requests.jsonl                        one line a request: time, what, status, seconds, sizes
    unknown.jsonl                         GraphQL operations that it has no answer for
    runs/ENTITY/PROJECT/RUN.json          config, summary, history, events, state, exit code, names of files, oddities
    files/ENTITY/PROJECT/RUN/PATH         uploaded files of a run
    artifacts/ID/artifact.json, files/... artifacts, with their manifest
    views.json                            saved workspaces

A server that is started again on the same store continues with what is in it.

Misbehaviour: by --mode or, while it runs, by POST /_control with a JSON object of the same names:

    mode    normal | 500 | 503 | 429 | hang (accepts, never answers) | drop (closes without an answer)
            | reject (401 as for a wrong key) | slow (answers after `delay` seconds) | lost (does it, then drops the answer)
    after   so many requests are answered well before the misbehaviour begins
    count   so many requests are treated badly, then all is well again (0: no end)
    only    regular expression on "METHOD what", e.g. "file_stream" or "UpsertBucket"; empty: all
    delay   seconds
    stopped beginnings of the ids of runs that somebody has stopped in the web page
    plan    the runs of every sweep, for `wandb agent`: a list of objects of values by key, one object a run

GET /_state tells the mode and counts; GET /_runs lists what runs look like. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import re
import socket
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

USER, TEAM = "tester", "testers"
HISTORY, EVENTS, SUMMARY, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"


def node_id(*parts: str) -> str:
    return base64.b64encode(":".join(parts).encode()).decode()


class GraphQLError(Exception):
    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


# What the server knows ------------------------------------------------------------------------------------------------


class Store:
    """Runs, artifacts and workspaces, in memory and on the disk. Every method that changes it holds the lock."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address = root, address
        self.lock = threading.RLock()
        self.runs: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.manifests: dict[str, str] = {}  # manifest -> artifact
        self.views: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.plan: list[dict[str, Any]] = []
        for folder in ("runs", "files", "artifacts"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path in root.glob("runs/*/*/*.json"):
            run = json.loads(path.read_text())
            for name in (HISTORY, EVENTS, SUMMARY, OUTPUT):
                run["lines"][name] = {int(line): text for line, text in run["lines"].get(name, {}).items()}
            self.runs[run["entity"], run["project"], run["id"]] = run
        for path in root.glob("artifacts/*/artifact.json"):
            artifact = json.loads(path.read_text())
            self.artifacts[artifact["id"]] = artifact
            for manifest in artifact["manifests"]:
                self.manifests[manifest] = artifact["id"]
        if (root / "views.json").exists():
            self.views = json.loads((root / "views.json").read_text())

    # Runs

    def run(self, entity: str | None, project: str | None, name: str) -> dict[str, Any] | None:
        return self.runs.get((entity or USER, project or "uncategorized", name))

    def upsert_run(self, v: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        with self.lock:
            key = (v.get("entity") or USER, v.get("project") or "uncategorized", v.get("name") or f"r{len(self.runs)}")
            run, inserted = self.runs.get(key), key not in self.runs
            if run is None:
                run = self.runs[key] = {
                    "entity": key[0], "project": key[1], "id": key[2], "created": time.time(),
                    "lines": {HISTORY: {}, EVENTS: {}, SUMMARY: {}, OUTPUT: {}},
                    "upserts": 0, "posts": 0, "exits": [], "exit_code": None, "files": [], "uploaded": [], "odd": [],
                }  # fmt: skip
            run["upserts"] += 1
            run["state"] = "running"
            names = {"groupName": "group", "displayName": "name", "jobType": "job_type", "tags": "tags", "notes": "notes",
                     "host": "host", "program": "program", "commit": "commit", "repo": "repo", "sweep": "sweep"}  # fmt: skip
            for variable, ours in names.items():
                if v.get(variable) is not None:
                    run[ours] = v[variable]
            if v.get("config") is not None:
                run["config"] = json.loads(v["config"])
            run.setdefault("name", f"unnamed-{len(self.runs)}")
            self.write_run(run)
            return run, inserted

    def stream(self, run: dict[str, Any], body: dict[str, Any]) -> None:
        """One request of the file stream: lines at their offsets, exit code."""
        with self.lock:
            run["posts"] += 1
            run["last_post"] = time.time()
            for name, chunk in body.get("files", {}).items():
                lines, offset = run["lines"].setdefault(name, {}), int(chunk["offset"])
                for number, line in enumerate(chunk["content"], start=offset):
                    if name == HISTORY and number in lines and lines[number] != line:
                        run["odd"].append(f"history line {number} written again with other contents")
                    if name == HISTORY and number > 0 and number - 1 not in lines:
                        run["odd"].append(f"history line {number} written, line {number - 1} never was")
                    lines[number] = line
            run["uploaded"] += [name for name in body.get("uploaded", []) if name not in run["uploaded"]]
            if body.get("preempting"):
                run["odd"].append("preempting")
            if body.get("complete"):
                run["exit_code"] = body.get("exitcode")
                run["exits"].append(body.get("exitcode"))
                run["state"] = "finished" if body.get("exitcode") == 0 else "failed"
            self.write_run(run)

    def history(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(text) for _, text in sorted(run["lines"][HISTORY].items())]

    def summary(self, run: dict[str, Any]) -> dict[str, Any]:
        lines = run["lines"][SUMMARY]
        return json.loads(lines[max(lines)]) if lines else {}

    def write_run(self, run: dict[str, Any]) -> None:
        rows = self.history(run)
        steps = [row.get("_step") for row in rows]
        shown = {
            **run,
            "summary": self.summary(run),
            "history": rows,
            "history_oddities": [f"_step {b} after {a}" for a, b in itertools.pairwise(steps) if not b > a],
        }
        replace(self.root / "runs" / run["entity"] / run["project"] / f"{run['id']}.json", json.dumps(shown, indent=1))

    def file_url(self, run: dict[str, Any], name: str) -> str:
        place = quote(f"files/{run['entity']}/{run['project']}/{run['id']}/{name}")
        return f"{self.address}/storage/{place}"

    def keep_file(self, place: str, data: bytes) -> None:
        path = self.root / place
        if ".." in Path(place).parts:
            raise ValueError(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        parts = place.split("/", 4)
        with self.lock:
            if parts[0] == "files" and (run := self.run(parts[1], parts[2], parts[3])) is not None:
                if parts[4] not in run["files"]:
                    run["files"].append(parts[4])
                self.write_run(run)

    # Artifacts

    def create_artifact(self, v: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            collection, digest = v["artifactCollectionName"], v["digest"]
            same = [a for a in self.versions(v["entityName"], v["projectName"], collection) if a["digest"] == digest]
            if same and v.get("enableDigestDeduplication"):
                return same[-1]
            number = len(self.artifacts)
            artifact = {
                "id": node_id("Artifact", str(number)), "folder": f"{number:04d}", "state": "PENDING",
                "collection": collection, "type": v["artifactTypeName"], "digest": digest, "version": None,
                "entity": v["entityName"], "project": v["projectName"], "run": v.get("runName"),
                "aliases": [a["alias"] for a in v.get("aliases") or []], "metadata": v.get("metadata"),
                "client_id": v.get("clientID"), "manifests": [], "files": [],
            }  # fmt: skip
            self.artifacts[artifact["id"]] = artifact
            self.write_artifact(artifact)
            return artifact

    def versions(self, entity: str, project: str, collection: str) -> list[dict[str, Any]]:
        found = [
            a
            for a in self.artifacts.values()
            if (a["entity"], a["project"], a["collection"]) == (entity, project, collection)
        ]
        return sorted((a for a in found if a["state"] == "COMMITTED"), key=lambda a: a["version"])

    def commit_artifact(self, id: str) -> dict[str, Any]:
        with self.lock:
            artifact = self.artifacts[id]
            if artifact["state"] != "COMMITTED":
                artifact["version"] = len(
                    self.versions(artifact["entity"], artifact["project"], artifact["collection"])
                )
                artifact["state"] = "COMMITTED"
            self.write_artifact(artifact)
            return artifact

    def write_artifact(self, artifact: dict[str, Any]) -> None:
        replace(self.root / "artifacts" / artifact["folder"] / "artifact.json", json.dumps(artifact, indent=1))

    def write_views(self) -> None:
        replace(self.root / "views.json", json.dumps(self.views, indent=1))


def replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


# GraphQL: one function an operation -----------------------------------------------------------------------------------


class Operations:
    """Answers by the name of the operation. More fields than were asked for do no harm to the SDK."""

    def __init__(self, store: Store, features: list[str]) -> None:
        self.store, self.features = store, features

    def answer(self, name: str, query: str, v: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, f"do_{name}", None)
        if method is None:
            append(self.store.root / "unknown.jsonl", {"name": name, "query": query, "variables": v})
            raise GraphQLError(f"Cannot answer {name}", 400)
        with self.store.lock:
            return method(v)

    # Who and what

    def viewer(self) -> dict[str, Any]:
        teams = {
            "edges": [
                {"node": {"id": node_id("Entity", TEAM), "name": TEAM}},
                {"node": {"id": node_id("Entity", USER), "name": USER}},
            ]
        }
        return {
            "id": node_id("User", "1"), "entity": USER, "username": USER, "email": "tester@example.invalid", "flags": "{}",
            "name": USER, "admin": False, "apiKeys": {"edges": []}, "teams": teams, "deletedAt": None,
            "capabilities": [], "hasEditableOrganizations": False, "organizations": [],
        }  # fmt: skip

    def do_Viewer(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": self.viewer()}

    do_GetViewer = do_GetDefaultEntity = do_Viewer

    def do_ServerFeaturesQuery(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in self.features]}}

    def do_ServerInfo(self, v: dict[str, Any]) -> dict[str, Any]:
        local = {"outOfDate": False, "latestVersionString": "0.99.0", "versionOnThisInstanceString": "0.99.0"}
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": local}}

    def do_OrgFeatureFlags(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"organization": {"featureFlags": []}}

    def do_XXHashDigestsEnabled(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    # Runs

    def bucket(self, run: dict[str, Any]) -> dict[str, Any]:
        lines = run["lines"]

        def tail(name: str) -> str:
            return json.dumps([lines[name][max(lines[name])]] if lines[name] else [])

        telemetry = (run.get("config") or {}).get("_wandb", {}).get("value", {}).get("t")
        return {
            "id": node_id("Run", "v1", run["id"], run["project"], run["entity"]), "name": run["id"],
            "displayName": run["name"], "description": None, "config": json.dumps(run.get("config") or {}),
            "sweepName": run.get("sweep"), "tags": run.get("tags") or [], "notes": run.get("notes"),
            "project": {"id": node_id("Project", run["project"]), "name": run["project"], "entity": {"id": node_id("Entity", run["entity"]), "name": run["entity"]}},
            "historyLineCount": len(lines[HISTORY]), "eventsLineCount": len(lines[EVENTS]), "logLineCount": len(lines[OUTPUT]),
            "historyTail": tail(HISTORY), "eventsTail": tail(EVENTS), "summaryMetrics": json.dumps(self.store.summary(run)),
            "wandbConfig": json.dumps({} if telemetry is None else {"t": telemetry}),
            "state": run["state"], "stopped": False,
        }  # fmt: skip

    def do_UpsertBucket(self, v: dict[str, Any]) -> dict[str, Any]:
        run, inserted = self.store.upsert_run(v)
        return {"upsertBucket": {"bucket": self.bucket(run), "inserted": inserted}}

    def do_RunResumeStatus(self, v: dict[str, Any]) -> dict[str, Any]:
        entity, project = v.get("entity") or USER, v.get("project") or "uncategorized"
        if not any(key[:2] == (entity, project) for key in self.store.runs):
            return {"model": None}
        run = self.store.run(entity, project, v["name"])
        model = {
            "id": node_id("Project", project),
            "name": project,
            "entity": {"id": node_id("Entity", entity), "name": entity},
        }
        return {"model": {**model, "bucket": None if run is None else self.bucket(run)}}

    # Sweeps and their agents

    def do_UpsertSweep(self, v: dict[str, Any]) -> dict[str, Any]:
        name = f"sweep{len(self.store.sweeps)}"
        entity, project = v.get("entityName") or USER, v.get("projectName") or "uncategorized"
        self.store.sweeps[name] = {"config": v["config"], "n_begun": 0}
        place = {"name": project, "entity": {"name": entity, "id": node_id("Entity", entity)}}
        sweep = {"name": name, "project": {"id": node_id("Project", project), **place}}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def do_SweepWithRuns(self, v: dict[str, Any]) -> dict[str, Any]:
        sweep = self.store.sweeps.get(v["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        known = {"id": node_id("Sweep", v["sweep"]), "name": v["sweep"], "state": "RUNNING", "config": sweep["config"]}
        return {"project": {"sweep": {**known, "runs": {"edges": []}}}}

    def do_CreateAgent(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": node_id("Agent", v["sweep"])}}}

    def do_Heartbeat(self, v: dict[str, Any]) -> dict[str, Any]:
        """One run of the plan at a time, then the end."""
        name = base64.b64decode(v["id"]).decode().rpartition(":")[2]
        sweep, commands = self.store.sweeps[name], []
        if not any(json.loads(v.get("runState") or "{}").values()):
            if sweep["n_begun"] < len(self.store.plan):
                values = self.store.plan[sweep["n_begun"]]
                sweep["n_begun"] += 1
                program = re.search(r"^program: (.+)$", sweep["config"], re.MULTILINE)
                commands.append(
                    {
                        "type": "run",
                        "run_id": f"{name}run{sweep['n_begun']}",
                        "program": "" if program is None else program[1],
                        "args": {key: {"value": value} for key, value in values.items()},
                    }
                )
            else:
                commands.append({"type": "exit"})
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def do_RunStopStatus(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def do_RunState(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.store.run(v.get("entity"), v.get("project"), v["run"])
        return {"project": {"run": None if run is None else {"id": run["id"], "state": run["state"]}}}

    def do_CreateRunFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.store.run(v["entity"], v["project"], v["run"])
        if run is None:
            raise GraphQLError(f"run {v['run']} not found", 404)
        files = [{"name": name, "uploadUrl": self.store.file_url(run, name)} for name in v["files"]]
        return {"createRunFiles": {"runID": node_id("Run", run["id"]), "uploadHeaders": [], "files": files}}

    def do_MarkRunFilesUploaded(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    # Artifacts

    def do_CreateArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        artifact = self.store.create_artifact(v["input"])
        before = self.store.versions(artifact["entity"], artifact["project"], artifact["collection"])
        latest = {"id": before[-1]["id"], "versionIndex": before[-1]["version"]} if before else None
        sequence = {"id": node_id("ArtifactSequence", artifact["collection"]), "latestArtifact": latest}
        return {
            "createArtifact": {
                "artifact": {"id": artifact["id"], "state": artifact["state"], "artifactSequence": sequence}
            }
        }

    def manifest(self, id: str, with_upload: bool) -> dict[str, Any]:
        artifact = self.store.artifacts[self.store.manifests[id]]
        file: dict[str, Any] = {"id": node_id("File", id)}
        if with_upload:
            name = f"manifest-{artifact['manifests'].index(id)}.json"
            file |= {
                "uploadUrl": f"{self.store.address}/storage/artifacts/{artifact['folder']}/{name}",
                "uploadHeaders": [],
            }
        return {"artifactManifest": {"id": id, "file": file}}

    def do_CreateArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        artifact = self.store.artifacts[v["artifactID"]]
        id = node_id("ArtifactManifest", artifact["folder"], str(len(artifact["manifests"])))
        artifact["manifests"].append(id)
        artifact["manifest_type"] = v.get("manifestType")
        self.store.manifests[id] = artifact["id"]
        self.store.write_artifact(artifact)
        return {"createArtifactManifest": self.manifest(id, v.get("includeUpload", True))}

    def do_UpdateArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": self.manifest(v["artifactManifestID"], v.get("includeUpload", True))}

    def do_CreateArtifactFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in v.get("artifactFiles") or v["input"]["artifactFiles"]:
            artifact = self.store.artifacts[spec["artifactID"]]
            artifact["files"].append({"name": spec["name"], "md5": spec.get("md5")})
            self.store.write_artifact(artifact)
            place = f"artifacts/{artifact['folder']}/files/{spec['name']}"
            node = {
                "id": node_id("File", place), "name": spec["name"], "storagePath": place, "uploadHeaders": [], "uploadMultipartUrls": None,
                "uploadUrl": f"{self.store.address}/storage/{quote(place)}", "artifact": {"id": artifact["id"]},
            }  # fmt: skip
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def do_CommitArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        artifact = self.store.commit_artifact(v["artifactID"])
        return {
            "commitArtifact": {
                "artifact": {"id": artifact["id"], "digest": artifact["digest"], "state": artifact["state"]}
            }
        }

    def do_ClientIDMapping(self, v: dict[str, Any]) -> dict[str, Any]:
        found = [a["id"] for a in self.store.artifacts.values() if a["client_id"] == v["clientID"]]
        return {"clientIDMapping": {"serverID": found[-1]} if found else None}

    def do_ArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        artifact = self.store.artifacts[v["artifact_id"]]
        name = f"manifest-{len(artifact['manifests']) - 1}.json"
        url = f"{self.store.address}/storage/artifacts/{artifact['folder']}/{name}"
        return {
            "artifact": {"currentManifest": {"id": artifact["manifests"][-1], "file": {"id": "f", "directUrl": url}}}
        }

    def do_ArtifactType(self, v: dict[str, Any]) -> dict[str, Any]:
        versions = self.store.versions(v.get("entity") or USER, v["project"], v["name"].partition(":")[0])
        return {"project": {"artifact": {"artifactType": {"name": versions[-1]["type"]}} if versions else None}}

    def do_FetchArtifactDigestAlgorithm(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifactType": {"artifactCollection": None}}}

    def do_UseArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"useArtifact": {"artifact": {"id": v["artifactID"]}}}

    # Workspaces

    def do_UpsertView2(self, v: dict[str, Any]) -> dict[str, Any]:
        entity, project = v.get("entityName"), v.get("projectName")
        if entity not in (USER, TEAM):
            raise GraphQLError(f"entity {entity} not found", 404)
        if not any(key[:2] == (entity, project) for key in self.store.runs):
            raise GraphQLError(f"project {entity}/{project} not found", 404)
        id, inserted = v.get("id"), v.get("id") is None
        if id is not None and id not in self.store.views:
            raise GraphQLError(f"view {id} not found", 404)
        id = id or node_id("View", str(len(self.store.views)))
        before = self.store.views.get(id, {"saved": 0})
        self.store.views[id] = {
            "id": id, "entity": entity, "project": project, "name": v["name"], "display_name": v.get("displayName"),
            "type": v.get("type"), "spec": json.loads(v["spec"]), "saved": before["saved"] + 1,
        }  # fmt: skip
        self.store.write_views()
        return {"upsertView": {"view": {"id": id, "name": v["name"]}, "inserted": inserted}}

    def do_View(self, v: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"node": {"id": view["id"], "displayName": view["display_name"], "spec": json.dumps(view["spec"])}}
            for view in self.store.views.values()
            if (view["entity"], view["project"], view["name"], view["type"])
            == (v.get("entityName"), v.get("name"), v.get("viewName"), v.get("viewType"))
        ]
        return {"project": {"allViews": {"edges": found}}}


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


# HTTP -----------------------------------------------------------------------------------------------------------------


class Behaviour:
    """How well the server behaves now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.set({})

    def set(self, wanted: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.mode, self.after = str(wanted.get("mode", "normal")), int(wanted.get("after", 0))
            self.count, self.only = int(wanted.get("count", 0)), str(wanted.get("only", ""))
            self.delay, self.well, self.badly = float(wanted.get("delay", 0.0)), 0, 0
            self.stopped = list(wanted.get("stopped", []))
            return self.state()

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("mode", "after", "count", "only", "delay", "well", "badly")}

    def for_request(self, what: str) -> str:
        with self.lock:
            if self.mode == "normal" or not re.search(self.only, what):
                return "normal"
            if self.well < self.after:
                self.well += 1
                return "normal"
            if self.count and self.badly >= self.count:
                return "normal"
            self.badly += 1
            return self.mode


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store
    operations: Operations
    behaviour: Behaviour
    keys: list[str]
    stopping: threading.Event

    def log_message(self, *_: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        encoding = self.headers.get("Content-Encoding", "")
        if "gzip" in encoding:
            return gzip.decompress(data)
        return zlib.decompress(data) if "deflate" in encoding else data

    def key(self) -> str:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            return base64.b64decode(value).decode().partition(":")[2]
        return value

    def send(self, status: int, content: Any, kind: str = "application/json") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        data = self.body()
        if path.startswith("/_"):
            self.control(path, data)
            return
        began, name, parsed = time.time(), "", {}
        if path.endswith("/graphql"):
            parsed = json.loads(data)
            found = re.search(r"\b(query|mutation|subscription)\s+(\w+)", parsed.get("query", ""))
            name = parsed.get("operationName") or (found.group(2) if found else "anonymous")
        what = f"{self.command} {path} {name}".strip()
        treated = self.behaviour.for_request(what)
        status: int | str = treated
        note: dict[str, Any] = {}
        try:
            if treated == "hang":
                self.stopping.wait(3600)
                self.close_connection = True
            elif treated == "drop":
                self.drop()
            elif treated in ("500", "503", "429"):
                status = int(treated)
                self.send(status, {"error": "the fake server was told to fail"})
            elif treated == "reject" or (self.keys and "/storage/" not in path and self.key() not in self.keys):
                status = 401
                error = {"message": "user is not logged in", "path": [name], "extensions": {"code": "PERMISSION_ERROR"}}
                self.send(status, {"errors": [error], "data": None})
            else:
                if treated == "slow":
                    time.sleep(self.behaviour.delay)
                status, content, kind, note = self.serve(path, name, parsed, data)
                if treated == "lost":
                    status = f"lost {status}"
                    self.drop()
                else:
                    self.send(status, content, kind)
        except (BrokenPipeError, ConnectionResetError):
            status, self.close_connection = f"{status} but the client had gone", True
        finally:
            row = {
                "at": began,
                "what": what,
                "status": status,
                "seconds": round(time.time() - began, 4),
                "bytes": len(data),
                **note,
            }
            with self.store.lock:
                append(self.store.root / "requests.jsonl", row)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

    def drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def serve(self, path: str, name: str, parsed: dict[str, Any], data: bytes) -> tuple[int, Any, str, dict[str, Any]]:
        json_kind = "application/json"
        if path.endswith("/graphql"):
            variables = parsed.get("variables") or {}
            note = {"run": variables.get("name") or variables.get("run") or variables.get("runName")}
            try:
                return 200, {"data": self.operations.answer(name, parsed.get("query", ""), variables)}, json_kind, note
            except GraphQLError as error:
                return (
                    error.status,
                    {"errors": [{"message": str(error), "path": [name]}], "data": None},
                    json_kind,
                    note,
                )
            except KeyError as error:
                return 400, {"errors": [{"message": f"missing {error}"}], "data": None}, json_kind, note
        if (found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)) is not None:
            run = self.store.run(*found.groups())
            if run is None:
                return 404, {"error": "run not found"}, json_kind, {}
            body = json.loads(data or b"{}")
            self.store.stream(run, body)
            note = {"run": run["id"], **{f: [c["offset"], len(c["content"])] for f, c in body.get("files", {}).items()}}
            note |= {key: body[key] for key in ("complete", "exitcode", "uploaded") if key in body}
            stopped = any(run["id"].startswith(start) for start in self.behaviour.stopped)
            return 200, {"exitcode": None, "limits": {}, "stopped": stopped}, json_kind, note
        if path.startswith("/storage/"):
            place = path.removeprefix("/storage/")
            if self.command in ("PUT", "POST"):
                self.store.keep_file(place, data)
                return 200, b"", "text/plain", {"md5": hashlib.md5(data).hexdigest()}
            file = self.store.root / place
            return (
                (200, file.read_bytes(), "application/octet-stream", {})
                if file.is_file()
                else (404, b"", "text/plain", {})
            )
        append(
            self.store.root / "unknown.jsonl",
            {"name": f"{self.command} {path}", "body": data[:2000].decode(errors="replace")},
        )
        return 404, {"error": "no such place"}, json_kind, {}

    def control(self, path: str, data: bytes) -> None:
        match path:
            case "/_control":
                wanted = json.loads(data or b"{}")
                self.store.plan = wanted.pop("plan", self.store.plan)
                self.send(200, self.behaviour.set(wanted))
            case "/_state":
                self.send(
                    200,
                    {**self.behaviour.state(), "runs": len(self.store.runs), "artifacts": len(self.store.artifacts)},
                )
            case "/_runs":
                with self.store.lock:
                    shown = [
                        {
                            **{k: r.get(k) for k in ("project", "id", "name", "group", "tags", "state", "exit_code")},
                            "rows": len(r["lines"][HISTORY]),
                        }
                        for r in self.store.runs.values()
                    ]
                self.send(200, shown)
            case _:
                self.send(404, {})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9200)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--keys", default="", help="keys that are let in, separated by commas; empty: every key")
    parser.add_argument("--features", default="", help="server features that are on, separated by commas")
    for name in ("mode", "only"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--after", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--delay", type=float)
    chosen = parser.parse_args()
    store = Store(chosen.store.resolve(), f"http://127.0.0.1:{chosen.port}")
    Handler.store, Handler.behaviour, Handler.stopping = store, Behaviour(), threading.Event()
    Handler.operations = Operations(store, [name for name in chosen.features.split(",") if name])
    Handler.keys = [key for key in chosen.keys.split(",") if key]
    wanted = {name: getattr(chosen, name) for name in ("mode", "only", "after", "count", "delay")}
    Handler.behaviour.set({name: value for name, value in wanted.items() if value is not None})
    server = Server(("127.0.0.1", chosen.port), Handler)
    print(f"fake W&B on http://127.0.0.1:{chosen.port}, store {store.root}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
