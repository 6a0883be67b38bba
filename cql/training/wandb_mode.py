"""Where W&B runs go: to the server, to files that are synced later, or nowhere."""

from __future__ import annotations

import logging
import netrc
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_log = logging.getLogger(__name__)

_MODES = ("auto", "online", "offline", "disabled")
_BY_WANDB = {"run": "online", "dryrun": "offline"}  # older names, which W&B still takes
_SECONDS_TO_ANSWER = 10
_SECONDS_KNOWN = 300.0  # how long an answer of the server counts for further runs of this process


class WandbSettingsError(ValueError):
    """W&B's settings, or the mode that is asked for, cannot be used; the message says which."""


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Raises:
        WandbSettingsError: It is none of auto, online, offline, disabled.
    """
    if mode not in _MODES:
        raise WandbSettingsError(f"mode is {mode!r}; choose one of {', '.join(_MODES)}")


def is_disabled(mode: str) -> bool:
    """Whether nothing is to be logged to W&B; asked before wandb is imported."""
    return mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled")


def choose_mode(mode: str) -> tuple[str, str]:
    """Where W&B runs go: "online", "offline" or "disabled", and why.

    "auto" obeys W&B's own settings (the variable WANDB_MODE; what `wandb offline` and `wandb disabled` have stored for
    the working directory), and else is online if a key is found, offline if none is.

    Raises:
        WandbSettingsError: W&B cannot read its settings, for example because WANDB_MODE is none of its modes.
    """
    if mode != "auto":
        return mode, f"mode={mode}"
    chosen = str(settings().mode)
    chosen = _BY_WANDB.get(chosen, chosen)
    variable = os.environ.get("WANDB_MODE")
    if chosen in ("offline", "disabled"):
        return chosen, f"WANDB_MODE={variable}" if variable else f"`wandb {chosen}` was given in this folder"
    if variable:
        return "online", f"WANDB_MODE={variable}"
    return ("online", "a key was found") if _has_key() else ("offline", "no key was found; `wandb login` stores one")


def settings() -> Any:
    """W&B's own settings, from the environment and its files.

    Raises:
        WandbSettingsError: They cannot be read.
    """
    import wandb

    try:
        return wandb.setup().settings
    except ValueError as error:  # pydantic's
        mode = os.environ.get("WANDB_MODE")
        hint = f"; WANDB_MODE is {mode!r}: choose one of online, offline, disabled, or unset it" if mode else ""
        raise WandbSettingsError(f"W&B's settings cannot be read{hint} ({' '.join(str(error).split())})") from error


class Server:
    """Whether the server lets runs in. It is asked once per process, as each run would wait for a dead one."""

    def __init__(self) -> None:
        self._problem: str | None = None
        self._asked: float | None = None

    def problem(self) -> str | None:
        """Why no run can be online, None if the server knows the key."""
        if self._asked is None or time.monotonic() - self._asked > _SECONDS_KNOWN:
            self.note(self._ask())
        return self._problem

    def note(self, problem: str | None) -> None:
        """Remember what was found out otherwise, such as the failed start of a run."""
        self._problem, self._asked = problem, time.monotonic()

    @staticmethod
    def _ask() -> str | None:
        import wandb

        began = time.monotonic()
        try:
            _ = wandb.Api(timeout=_SECONDS_TO_ANSWER).viewer
        except Exception as error:  # noqa: BLE001  W&B raises what it likes
            url = settings().base_url
            if time.monotonic() - began >= _SECONDS_TO_ANSWER:
                return f"{url} gave no answer within {_SECONDS_TO_ANSWER} s"
            return f"{url}: {' '.join(str(error).split())}"
        return None


SERVER = Server()


def _has_key() -> bool:
    """Whether wandb would find a key without asking for one: in the environment, its settings or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    known = settings()
    if known.api_key:
        return True
    hosts = [urlsplit(known.base_url).netloc]
    if "WANDB_BASE_URL" not in os.environ:
        hosts.append("api.wandb.ai")  # where older keys were stored; newer releases of wandb have another default
    path = os.environ.get("NETRC") or next(
        (str(file) for file in (Path.home() / ".netrc", Path.home() / "_netrc") if file.exists()), None
    )
    if path is None:
        return False
    try:
        stored = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError) as error:
        _log.warning("no W&B key could be read from %s: %s", path, error)
        return False
    return any(stored.authenticators(host) for host in hosts)
