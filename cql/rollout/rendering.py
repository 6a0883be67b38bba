"""Rendering without a screen: choice of the OpenGL backend, and GIF and MP4 files.

MuJoCo reads MUJOCO_GL when it is imported. A missing library shows in many ways: MuJoCo's own exception, an
AttributeError deep in PyOpenGL, a black picture or a crash. So :func:`choose_backend` tries a backend in a child
process.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cql import files

logger = logging.getLogger(__name__)

#: A picture is blank if the standard deviation over all its values is not above this.
MIN_FRAME_STD = 1.0

_CANDIDATES = ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
_OFF = ("disable", "disabled", "off", "false", "0")  # MuJoCo's own words for it
_PYOPENGL_PLATFORMS = ("egl", "osmesa")
_PROBE_SECONDS = 60.0
_INSTALL_HINT = (
    "on Debian or Ubuntu, `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` (or `libosmesa6`) installs a backend"
)
_GIF_COLOURS = 64
_GIF_TICK = 0.01  # seconds; the format counts delays in hundredths

# The probe uses gymnasium's viewer, which refuses some backends that MuJoCo knows.
_PROBE = """
import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
mujoco.set_mju_user_warning(lambda message: None)
model = mujoco.MjModel.from_xml_string(
    '<mujoco><visual><quality shadowsize="0"/></visual><worldbody><light pos="0 0 3"/>'
    '<geom type="sphere" size=".3" rgba="1 0 0 1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
frame = OffScreenViewer(model, data, 32, 32).render("rgb_array")
if not frame.std() > {min_std}:
    raise SystemExit("the picture is blank")
print("drawn", flush=True)
import os
os._exit(0)  # some drivers fail when the interpreter shuts down
"""


class RenderingError(RuntimeError):
    """Rendering or writing a video failed. Training can continue without videos."""


# The probes that `begin_to_choose` started, by backend.
_begun: dict[str, subprocess.Popen[bytes]] = {}


def begin_to_choose() -> None:
    """Start the probe of :func:`choose_backend` early, so that it runs beside other work such as importing torch.

    This process does not change. Never raises: `choose_backend` reports what went wrong.
    """
    wanted = _wanted()
    if wanted not in _OFF and not _begun and importlib.util.find_spec("mujoco") is not None:
        backend = wanted or _CANDIDATES[0]
        with suppress(OSError):
            _begun[backend] = _start_to_draw(backend)


@functools.cache
def choose_backend() -> str | None:
    """Find an OpenGL backend that draws without a screen, and select it for this process.

    Call it before MuJoCo is imported. If MUJOCO_GL is set, only that backend is tried; else EGL, then OSMesa. Each is
    tried in a child process that draws a picture (about a second, less after :func:`begin_to_choose`). On success
    MUJOCO_GL and PYOPENGL_PLATFORM are set in `os.environ`. Otherwise one warning says why and what to install, and
    MUJOCO_GL becomes "disable": MuJoCo cannot be imported with a backend that is misspelt or lacks its library, and
    training needs no pictures. The result is cached.

    MuJoCo may be loaded already, because gymnasium loads the backend with the first picture. PyOpenGL cannot change its
    platform once it is loaded; then the result is None.

    Returns:
        "egl", "osmesa" or the value of MUJOCO_GL; None if no backend draws. Never raises.
    """
    wanted = _wanted()
    if wanted in _OFF:
        logger.warning("No videos: MUJOCO_GL=%s switches rendering off.", wanted)
        return None
    failures = []
    for backend in (wanted,) if wanted else _CANDIDATES:
        failure = _conflict_with_loaded_modules(backend) or _try_to_draw(backend)
        if failure is None:
            os.environ.update(_backend_variables(backend))
            logger.info("Rendering with MUJOCO_GL=%s", backend)
            return backend
        failures.append(f"{backend}: {failure}")
    reason = "; ".join(failures)
    if wanted:
        advice = f"MUJOCO_GL={wanted} is set, but cannot draw ({reason}). Unset it to try EGL and OSMesa"
    else:
        advice = f"no backend can draw here ({reason})"
    logger.warning("No videos: %s; %s.", advice, _INSTALL_HINT)
    os.environ["MUJOCO_GL"] = _OFF[0]
    return None


def encode_gif(frames: NDArray[np.uint8], seconds_per_frame: float) -> bytes:
    """Make an animated GIF that loops forever.

    All frames share one palette of 64 colours, without dithering, so that unchanged regions compress away. The file is
    half the size of one with a palette per frame.

    Args:
        frames: uint8 (T, height, width, 3).
        seconds_per_frame: duration of each frame. The format stores hundredths of a second.

    Returns:
        The contents of the file.

    Raises:
        RenderingError: the frames have another shape or dtype.
    """
    import imageio.v3 as iio
    from PIL import Image

    _check_frames(frames)
    # Browsers play delays below 0.02 s at a tenth of a second.
    milliseconds = 10 * max(2, round(seconds_per_frame / _GIF_TICK))
    sample = np.concatenate(list(frames[:: max(1, len(frames) // 8)]), axis=1)
    dither = Image.Dither.NONE
    # Median cut, Pillow's default, spends the colours on floor and sky: a cheetah's pink shins turn orange.
    palette = Image.fromarray(sample).quantize(_GIF_COLOURS, method=Image.Quantize.FASTOCTREE, dither=dither)
    reduced = [
        np.asarray(Image.fromarray(frame).quantize(palette=palette, dither=dither).convert("RGB")) for frame in frames
    ]
    return iio.imwrite(
        "<bytes>",
        reduced,
        extension=".gif",
        plugin="pillow",
        duration=milliseconds,
        loop=0,
        optimize=True,
        disposal=1,
    )


def write_video(path: Path, contents: bytes) -> None:
    """Write the bytes that :func:`encode_gif` made, all or nothing; raises :class:`RenderingError` if it cannot."""
    with _replacing(path) as aside:
        aside.write_bytes(contents)


def write_gif(path: Path, frames: NDArray[np.uint8], seconds_per_frame: float) -> None:
    """:func:`encode_gif`, then :func:`write_video`, with their errors."""
    write_video(path, encode_gif(frames, seconds_per_frame))


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an H.264 video with imageio's ffmpeg.

    Args:
        path: the file. It appears whole or not at all.
        frames: uint8 (T, height, width, 3). An odd height or width gains one pixel, since the codec needs even ones.
        fps: frames per second.

    Raises:
        RenderingError: the frames have another shape or dtype, ffmpeg fails, or the file cannot be written.
    """
    import imageio.v3 as iio
    import imageio_ffmpeg  # type: ignore[import-untyped]

    _check_frames(frames)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with _replacing(path) as aside:
        try:
            iio.imwrite(
                aside,
                frames,
                plugin="FFMPEG",
                extension=".mp4",
                fps=Fraction(fps).limit_denominator(1000),
                codec="libx264",
                pixelformat="yuv420p",  # every browser plays 4:2:0
                quality=None,  # in favour of -crf
                macro_block_size=2,
                ffmpeg_log_level="error",
                # "faststart" lets a video begin before all of it has arrived.
                output_params=["-crf", "20", "-movflags", "+faststart", "-f", "mp4"],
            )
            # imageio does not look at ffmpeg's exit status.
            n_written, _ = imageio_ffmpeg.count_frames_and_secs(str(aside))
        except (OSError, RuntimeError) as error:
            raise RenderingError(f"{path}: ffmpeg cannot write the video: {error}") from error
        if n_written != len(frames):
            raise RenderingError(f"{path}: ffmpeg wrote {n_written} of {len(frames)} frames")


def _wanted() -> str:
    return os.environ.get("MUJOCO_GL", "").strip().lower()


def _backend_variables(backend: str) -> dict[str, str]:
    variables = {"MUJOCO_GL": backend}
    if backend in _PYOPENGL_PLATFORMS:
        variables["PYOPENGL_PLATFORM"] = backend
    return variables


def _conflict_with_loaded_modules(backend: str) -> str | None:
    """Why this process can no longer use a backend; None if it can."""
    platform = os.environ.get("PYOPENGL_PLATFORM", "")
    if backend in _PYOPENGL_PLATFORMS and "OpenGL" in sys.modules and platform.lower() != backend:
        return f"PyOpenGL is loaded already for {platform or 'the default platform'}; choose the backend earlier"
    return None


def _try_to_draw(backend: str) -> str | None:
    """Draw a picture in a child process. Return None on success, else the reason."""
    if importlib.util.find_spec("mujoco") is None:
        return "mujoco is not installed"
    try:
        child = _begun.pop(backend, None) or _start_to_draw(backend)
        with child:
            try:
                stdout, stderr = child.communicate(timeout=_PROBE_SECONDS)
            except BaseException:
                child.kill()
                raise
    except subprocess.TimeoutExpired:
        return f"drawing took more than {_PROBE_SECONDS:.0f} s"
    except OSError as error:
        return f"no child process can be started to try it: {error}"
    if child.returncode == 0 and stdout.strip().endswith(b"drawn"):
        return None
    # Errors from destructors may follow the traceback, so the last line need not name the exception.
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line[:1].strip()]
    causes = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "blank"))]
    reason = (causes or lines or ["no message"])[0]
    return reason if child.returncode > 0 else f"{reason} (ended by signal {-child.returncode})"


def _start_to_draw(backend: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROBE.format(min_std=MIN_FRAME_STD)],
        env={**os.environ, **_backend_variables(backend)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _check_frames(frames: NDArray[np.uint8]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise RenderingError(f"frames must be uint8 (T, height, width, 3), not {frames.dtype} {frames.shape}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """:func:`cql.files.replacing` with a `RenderingError` that names the file."""
    try:
        with files.replacing(path) as aside:
            yield aside
    except OSError as error:
        raise RenderingError(f"{path}: cannot be written: {error}") from error
