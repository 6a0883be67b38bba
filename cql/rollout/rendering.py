"""Pictures without a screen: which OpenGL backend can draw here, and frames into GIF and MP4 files.

MuJoCo reads MUJOCO_GL when it is imported and fails in many ways where a library is missing: an exception of its own,
an AttributeError deep in PyOpenGL, a black picture, a crash. So :func:`choose_backend` lets a child process try.
"""

from __future__ import annotations

import functools
import importlib.util
import io
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

logger = logging.getLogger(__name__)

#: A picture whose standard deviation over all values is not above this shows nothing.
MIN_FRAME_STD = 1.0

_CANDIDATES = ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
_OFF = ("disable", "disabled", "off", "false", "0")  # MuJoCo's own words for it
_PYOPENGL_PLATFORMS = ("egl", "osmesa")
_PROBE_SECONDS = 60.0
_INSTALL_HINT = (
    "on Debian or Ubuntu `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` (or `libosmesa6`) brings what is needed"
)
_GIF_COLOURS = 64
_GIF_TICK = 0.01  # seconds; the format counts delays in hundredths

# Drawn through gymnasium's viewer, because that is what will draw later: it refuses backends that MuJoCo itself knows.
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
os._exit(0)  # some drivers fail while the interpreter goes down, after the work is done
"""


class RenderingError(RuntimeError):
    """Nothing can be drawn, or a picture or video came out wrong. Training can go on without."""


# The trial that `begin_to_choose` started, by its backend.
_begun: dict[str, subprocess.Popen[bytes]] = {}


def begin_to_choose() -> None:
    """Start what :func:`choose_backend` would wait for, so that it goes on beside other work, such as importing torch.

    Nothing of this process changes. Never raises: what goes wrong here, `choose_backend` will say.
    """
    wanted = _wanted()
    if wanted not in _OFF and not _begun and importlib.util.find_spec("mujoco") is not None:
        backend = wanted or _CANDIDATES[0]
        with suppress(OSError):
            _begun[backend] = _start_to_draw(backend)


@functools.cache
def choose_backend() -> str | None:
    """Find an OpenGL backend that really draws without a screen, and select it for this process.

    Call it before MuJoCo is imported. MUJOCO_GL is honoured when it is set; else EGL is tried, then OSMesa, each in a
    child process that draws a picture (about a second in all, less after :func:`begin_to_choose`). On success MUJOCO_GL
    and PYOPENGL_PLATFORM are set in `os.environ`. Otherwise one warning says why and what to install, and MUJOCO_GL
    becomes "disable", because with a backend that is misspelt or lacks its library MuJoCo cannot even be imported, and
    training needs no pictures. The answer is kept: later calls cost nothing.

    A MuJoCo that is loaded already is no obstacle as such, because gymnasium loads the backend at the first picture;
    but a PyOpenGL that is loaded for another platform cannot be changed any more, and then the answer is None.

    Returns:
        "egl", "osmesa" or what MUJOCO_GL says; None where nothing can be drawn. Never raises.
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
        advice = f"MUJOCO_GL={wanted} is set, but cannot draw ({reason}). Unset it to let EGL and OSMesa be tried"
    else:
        advice = f"nothing can draw here ({reason})"
    logger.warning("No videos: %s; %s.", advice, _INSTALL_HINT)
    os.environ["MUJOCO_GL"] = _OFF[0]
    return None


def encode_gif(frames: NDArray[np.uint8], seconds_per_frame: float) -> bytes:
    """Make an animated GIF that repeats for ever.

    One palette of 64 colours for all frames and no dithering, because only then do unchanged regions compress away:
    half the size of a palette per frame.

    Args:
        frames: uint8 (T, height, width, 3).
        seconds_per_frame: Playing time of each frame, rounded to hundredths of a second as the format demands.

    Returns:
        The contents of the file.

    Raises:
        RenderingError: The frames are not such an array.
    """
    from PIL import Image

    _check_frames(frames)
    # Browsers play delays below 0.02 s at a tenth of a second.
    milliseconds = 10 * max(2, round(seconds_per_frame / _GIF_TICK))
    sample = np.concatenate(list(frames[:: max(1, len(frames) // 8)]), axis=1)
    dither = Image.Dither.NONE
    # Median cut, Pillow's default, spends the colours on floor and sky: a cheetah's pink shins turn orange.
    palette = Image.fromarray(sample).quantize(_GIF_COLOURS, method=Image.Quantize.FASTOCTREE, dither=dither)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=dither) for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        optimize=True,
        disposal=1,
    )
    return buffer.getvalue()


def write_film(path: Path, contents: bytes) -> None:
    """Write what :func:`encode_gif` made.

    Args:
        path: The file; it appears whole or not at all.
        contents: Its bytes.

    Raises:
        RenderingError: The file cannot be written.
    """
    with _whole_or_not_at_all(path) as partial:
        partial.write_bytes(contents)


def write_gif(path: Path, frames: NDArray[np.uint8], seconds_per_frame: float) -> None:
    """Write an animated GIF that repeats for ever; see :func:`encode_gif`.

    Args:
        path: The file; it appears whole or not at all.
        frames: uint8 (T, height, width, 3).
        seconds_per_frame: Playing time of each frame.

    Raises:
        RenderingError: The frames are not such an array, or the file cannot be written.
    """
    write_film(path, encode_gif(frames, seconds_per_frame))


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an H.264 video, with the ffmpeg that imageio-ffmpeg brings.

    Args:
        path: The file; it appears whole or not at all.
        frames: uint8 (T, height, width, 3). An odd height or width, which the codec cannot hold, gains one pixel.
        fps: Frames per second.

    Raises:
        RenderingError: The frames are not such an array, or ffmpeg fails.
    """
    import imageio_ffmpeg  # type: ignore[import-untyped]

    _check_frames(frames)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    with _whole_or_not_at_all(path) as partial:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        source += ["-r", str(Fraction(fps).limit_denominator(1000)), "-i", "-"]
        # 4:2:0 is the one layout that every browser plays; "faststart" lets it begin before all has arrived.
        target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", "-f", "mp4"]
        try:
            subprocess.run(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target, str(partial)],
                input=frames.tobytes(),
                capture_output=True,
                check=True,
                start_new_session=True,  # Ctrl-C shall stop the training, not leave half a video of it
            )
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise RenderingError(f"{path}: ffmpeg failed with status {error.returncode}: {reason}") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: imageio-ffmpeg found no ffmpeg
            raise RenderingError(f"{path}: ffmpeg cannot be started: {error}") from error


def _wanted() -> str:
    return os.environ.get("MUJOCO_GL", "").strip().lower()


def _backend_variables(backend: str) -> dict[str, str]:
    variables = {"MUJOCO_GL": backend}
    if backend in _PYOPENGL_PLATFORMS:
        variables["PYOPENGL_PLATFORM"] = backend
    return variables


def _conflict_with_loaded_modules(backend: str) -> str | None:
    """Say why this process can no longer use a backend; None if it can."""
    platform = os.environ.get("PYOPENGL_PLATFORM", "")
    if backend in _PYOPENGL_PLATFORMS and "OpenGL" in sys.modules and platform.lower() != backend:
        return f"PyOpenGL is loaded already for {platform or 'the default platform'}; choose the backend earlier"
    return None


def _try_to_draw(backend: str) -> str | None:
    """Draw a picture in a child process; None if that worked, else the reason."""
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
    # Errors from destructors may follow the traceback; its last line is the one that names an exception.
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
def _whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder, and move it to its place when all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise RenderingError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
