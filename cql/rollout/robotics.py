"""gymnasium-robotics: PointMaze, AntMaze, AdroitHand and FrankaKitchen, of the extra `robotics`."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

PACKAGE = "gymnasium_robotics"
_FAMILIES = ("PointMaze", "AntMaze", "AdroitHand", "FrankaKitchen", "Fetch", "HandReach", "HandManipulate")


def register(env_id: str) -> None:
    """Import the package, which registers its environments, if an id is one of it."""
    if env_id.removeprefix(f"{PACKAGE}:").startswith(_FAMILIES) and find_spec(PACKAGE) is not None:
        _import()


@functools.cache
def _import() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):  # a notice about Adroit's dense rewards, at each import
        import gymnasium_robotics  # noqa: F401
        from gymnasium_robotics.utils import mujoco_utils
    if printed.getvalue():
        logger.debug("%s: %s", PACKAGE, printed.getvalue().strip())
    _compare_joints_as_numbers(mujoco_utils)


def tidy(env: Any) -> None:
    """Remove the file that a maze of the package leaves in the folder of temporary files when it has read it."""
    path = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if isinstance(path, str) and is_own(env):
        Path(path).unlink(missing_ok=True)


def is_own(env: Any) -> bool:
    """Whether an environment is one of the package."""
    return type(env.unwrapped).__module__.startswith(f"{PACKAGE}.")


def hint(env_id: str) -> str:
    """What to do about an environment that cannot be made, if it is one of the package and that is not installed."""
    if not env_id.removeprefix(f"{PACKAGE}:").startswith(_FAMILIES) or find_spec(PACKAGE) is not None:
        return ""
    return " It is one of gymnasium-robotics: pip install gymnasium-robotics"


def _compare_joints_as_numbers(utils: Any) -> None:
    """Let the package's helpers know joints by number.

    MuJoCo 4's `mjtJoint.mjJNT_HINGE == numpy.int32(3)` is False, whereas the other order is True. So
    `joint_type in (mjJNT_HINGE, mjJNT_SLIDE)` of gymnasium-robotics 1.4.2 is False, an assertion in which every
    FrankaKitchen ends.
    """
    joints = utils.mujoco.mjtJoint
    if joints.mjJNT_HINGE == np.int32(joints.mjJNT_HINGE):
        return
    numbers = {name: int(joint) for name, joint in joints.__members__.items()}
    utils.mujoco = SimpleNamespace(**{**vars(utils.mujoco), "mjtJoint": SimpleNamespace(**numbers)})
