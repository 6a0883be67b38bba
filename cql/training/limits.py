"""What the machine and its batch system allow this process: memory and open files."""

import os
import resource
from pathlib import Path

FILES_PER_RUN = 2  # its lock, and the log of its W&B run
_OTHER_FILES = 32  # of the process itself: its libraries, a video or a checkpoint that is being written


def free_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may still take: of the machine, and of its control groups, which batch systems limit.

    Args:
        groups: where the control groups are.
        own: tells the groups of this process.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    return max(min([free, *_free_in_groups(groups, own)]), 0)


def _free_in_groups(groups: Path, own: Path) -> list[int]:
    """Bytes that each control group round this process leaves it; version 2 of them, or 1."""
    found = []
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit_file, used_file, cache = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, cache = groups / "memory", "total_inactive_file"
            limit_file, used_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / name.lstrip("/")
        # In a container, the name may be that of a group outside, which cannot be seen from here.
        for each in (group, *group.parents):
            limit, used = _number(each / limit_file), _number(each / used_file)
            if limit is not None and used is not None:
                found.append(limit - used + _cached(each / "memory.stat", cache))
            if each == root:
                break
    return found


def _number(path: Path) -> int | None:
    """The number in a file, None if there is none, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached(path: Path, name: str) -> int:
    """The bytes of a group that hold files, which the kernel gives back when they are needed."""
    try:
        fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        return int(fields.get(name, 0))
    except (OSError, ValueError):
        return 0


def allow_open_files() -> int:
    """Let this process open as many files as it may; returns the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def runs_by_files() -> int:
    """How many runs a stack of this process may have before it lacks open files, at least 1."""
    limit = allow_open_files()
    if limit == resource.RLIM_INFINITY:
        limit = 2**20
    return max((limit - _OTHER_FILES) // FILES_PER_RUN, 1)
