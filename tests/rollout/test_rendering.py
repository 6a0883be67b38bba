"""Backends are tried in a child process and never bring the program down; GIF and MP4 files are whole or absent."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cql.rollout import rendering
from cql.rollout.rendering import RenderingError, choose_backend, write_gif, write_mp4


def ask(monkeypatch, **variables):
    """`choose_backend` afresh, with only the given variables of those that matter."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return choose_backend.__wrapped__()


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# Backends


def test_rendering_that_is_switched_off_is_respected(monkeypatch, caplog):
    assert ask(monkeypatch, MUJOCO_GL="disable") is None
    assert warnings_of(caplog) == ["No videos: MUJOCO_GL=disable switches rendering off."]
    assert os.environ["MUJOCO_GL"] == "disable"


def test_a_wanted_backend_that_cannot_draw_is_named_and_no_other_is_taken(monkeypatch, caplog):
    assert ask(monkeypatch, MUJOCO_GL="bogus") is None
    (warning,) = warnings_of(caplog)
    assert "MUJOCO_GL=bogus is set, but cannot draw (bogus: RuntimeError: invalid value" in warning
    assert "apt-get install" in warning
    assert os.environ["MUJOCO_GL"] == "disable"  # MuJoCo refuses to be imported with "bogus"


def test_where_nothing_can_draw_one_warning_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setattr(rendering, "_CANDIDATES", ("bogus", "nonsense"))
    assert ask(monkeypatch) is None
    (warning,) = warnings_of(caplog)
    assert "bogus: RuntimeError" in warning
    assert "nonsense: RuntimeError" in warning
    assert "apt-get install libegl1" in warning
    assert os.environ["MUJOCO_GL"] == "disable"


def test_the_answer_is_kept_and_the_warning_comes_once(monkeypatch, caplog):
    monkeypatch.setenv("MUJOCO_GL", "off")
    choose_backend.cache_clear()
    try:
        assert choose_backend() is None
        assert choose_backend() is None
        assert len(warnings_of(caplog)) == 1
    finally:
        choose_backend.cache_clear()


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ("import os; os.abort()", "ended by signal 6"),
        ("raise SystemExit('the picture is blank')", "the picture is blank"),
        ("pass", "no message"),  # ended well, but never said that it drew
        ("raise OSError('no such library')", "OSError: no such library"),
        ("import time; time.sleep(60)", "drawing took more than"),
    ],
)
def test_a_probe_may_fail_in_any_way(probe, reason, monkeypatch, caplog):
    monkeypatch.setattr(rendering, "_PROBE", probe)
    monkeypatch.setattr(rendering, "_PROBE_SECONDS", 0.5 if "sleep" in probe else 30.0)
    monkeypatch.setattr(rendering, "_CANDIDATES", ("egl",))
    monkeypatch.setattr(rendering, "_conflict_with_loaded_modules", lambda _: None)
    assert ask(monkeypatch) is None
    assert reason in warnings_of(caplog)[0]


def test_what_began_early_is_not_done_twice(monkeypatch, caplog):
    started = []
    start = rendering._start_to_draw
    monkeypatch.setattr(rendering, "_start_to_draw", lambda backend: started.append(backend) or start(backend))
    monkeypatch.setattr(rendering, "_PROBE", "print('drawn')")
    monkeypatch.setattr(rendering, "_CANDIDATES", ("egl", "osmesa"))
    monkeypatch.setattr(rendering, "_conflict_with_loaded_modules", lambda _: None)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "to be restored")
    monkeypatch.setenv("MUJOCO_GL", "")
    rendering.begin_to_choose()
    rendering.begin_to_choose()
    assert started == ["egl"]
    assert os.environ["MUJOCO_GL"] == ""  # nothing is settled yet
    assert choose_backend.__wrapped__() == "egl"
    assert started == ["egl"]
    assert choose_backend.__wrapped__() == "egl"  # and without, it starts its own
    assert started == ["egl", "egl"]
    assert not warnings_of(caplog)


@pytest.mark.parametrize(("variable", "backend"), [("off", None), ("osmesa", "osmesa")])
def test_what_begins_early_is_what_was_asked_for(variable, backend, monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "print('drawn')")
    monkeypatch.setenv("MUJOCO_GL", variable)
    rendering.begin_to_choose()
    begun = dict(rendering._begun)
    assert list(begun) == ([] if backend is None else [backend])
    for name in begun:
        assert rendering._try_to_draw(name) is None


def test_what_cannot_begin_is_told_later(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    rendering.begin_to_choose()
    assert not caplog.records
    assert ask(monkeypatch, MUJOCO_GL="glfw") is None
    assert "no child process can be started" in warnings_of(caplog)[0]


def test_a_missing_interpreter_is_survived(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert ask(monkeypatch, MUJOCO_GL="glfw") is None
    assert "no child process can be started" in warnings_of(caplog)[0]


def test_a_platform_that_is_loaded_already_cannot_be_changed(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "OpenGL", object())
    monkeypatch.setattr(rendering, "_CANDIDATES", ("egl",))
    assert ask(monkeypatch, PYOPENGL_PLATFORM="glx") is None
    assert "PyOpenGL is loaded already for glx" in warnings_of(caplog)[0]


_DRAW = """
import json, logging, os, sys
logging.basicConfig(level=logging.WARNING)
if sys.argv[1:] == ["late"]:
    import mujoco
from cql.rollout.rendering import choose_backend
backend = choose_backend()
loaded = "mujoco" in sys.modules
std = None
if backend is not None:
    import numpy as np
    from cql.rollout.evaluation import Recorder
    policy = lambda observations: np.zeros((1, 1, 1), np.float32)
    std = float(Recorder("InvertedPendulum-v5", 32, 32, seconds=0.1).record(policy, 0).frames.std())
print(json.dumps([backend, os.environ.get("MUJOCO_GL"), os.environ.get("PYOPENGL_PLATFORM"), loaded, std]))
"""


@pytest.mark.parametrize(
    ("wanted", "argument"), [(None, ""), ("osmesa", ""), (None, "late")], ids=["free", "osmesa", "late"]
)
def test_a_backend_that_is_chosen_draws_in_a_fresh_process(wanted, argument, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    if wanted is not None:
        environment["MUJOCO_GL"] = wanted
    environment["PYTHONPATH"] = str(Path(rendering.__file__).parents[2])
    child = subprocess.run(
        [sys.executable, "-c", _DRAW, *([argument] if argument else [])],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    backend, mujoco_gl, platform, loaded, std = json.loads(child.stdout)
    assert loaded == (argument == "late")
    assert list(tmp_path.iterdir()) == []
    if backend is None:
        assert child.stderr.count("apt-get install") == 1
        pytest.skip(f"nothing can draw here: {child.stderr}")
    assert backend in ((wanted,) if wanted else ("egl", "osmesa", "glfw"))
    assert mujoco_gl == backend
    assert platform == (backend if backend in ("egl", "osmesa") else None)
    assert std > 1.0
    assert child.stderr == ""  # not even while the interpreter goes down


def test_environments_run_on_where_the_wanted_backend_does_not_exist(tmp_path):
    code = (
        "from cql.rollout.rendering import choose_backend; assert choose_backend() is None\n"
        "from cql.rollout.envs import make_env\n"
        "env = make_env('Hopper-v5'); env.reset(seed=0); env.step([0, 0, 0]); env.close()"
    )
    environment = {**os.environ, "MUJOCO_GL": "bogus", "PYTHONPATH": str(Path(rendering.__file__).parents[2])}
    child = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stderr.count("MUJOCO_GL=bogus is set") == 1


# Files


def moving_square(n_frames=10, height=48, width=64):
    frames = np.full((n_frames, height, width, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[10:20, 4 * index : 4 * index + 10] = (230, 120, 30)
    return frames


def test_a_gif_plays_every_frame_in_real_time_for_ever(tmp_path):
    frames = moving_square()
    path = tmp_path / "video.gif"
    write_gif(path, frames, seconds_per_frame=0.05)
    with Image.open(path) as gif:
        assert gif.n_frames == 10
        assert gif.size == (64, 48)
        assert gif.info["loop"] == 0
        for index, frame in enumerate(frames):
            gif.seek(index)
            assert gif.info["duration"] == 50
            np.testing.assert_allclose(np.asarray(gif.convert("RGB")).astype(int), frame, atol=8)
    assert [file.name for file in tmp_path.iterdir()] == ["video.gif"]


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.04, 40), (0.0333, 30), (0.056, 60), (0.001, 20)])
def test_a_gif_counts_in_hundredths_of_a_second(seconds, milliseconds, tmp_path):
    write_gif(tmp_path / "video.gif", moving_square(2), seconds)
    with Image.open(tmp_path / "video.gif") as gif:
        assert gif.info["duration"] == milliseconds


def test_one_frame_is_a_gif_too(tmp_path):
    write_gif(tmp_path / "video.gif", moving_square(1), 0.05)
    with Image.open(tmp_path / "video.gif") as gif:
        assert gif.n_frames == 1


def read_mp4(path):
    """All frames, and what ffmpeg says of the stream."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    child = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in child.stderr.decode().splitlines() if "Video:" in line)
    width, height = map(int, re.search(r", (\d+)x(\d+)", stream).groups())
    return np.frombuffer(child.stdout, np.uint8).reshape(-1, height, width, 3), stream


def test_an_mp4_holds_every_frame(tmp_path, caplog):
    frames = np.repeat(np.repeat(moving_square(20, 25, 50), 8, axis=1), 4, axis=2)  # 200 x 200, moving blocks
    path = tmp_path / "video.mp4"
    write_mp4(path, frames, fps=20.0)
    read, stream = read_mp4(path)
    assert read.shape == (20, 200, 200, 3)
    assert "h264" in stream
    assert "yuv420p" in stream
    assert "20 fps" in stream
    assert np.abs(read.astype(int) - frames).mean() < 3
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    assert caplog.records == []


def test_an_mp4_of_odd_size_gains_a_pixel(tmp_path):
    write_mp4(tmp_path / "video.mp4", moving_square(3, 31, 45), fps=1 / 0.04)
    read, stream = read_mp4(tmp_path / "video.mp4")
    assert read.shape == (3, 32, 46, 3)
    assert "25 fps" in stream


@pytest.mark.parametrize("write", [write_gif, write_mp4])
def test_an_existing_file_is_replaced(write, tmp_path):
    path = tmp_path / "video"
    path.write_bytes(b"old")
    write(path, moving_square(), 0.05)
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("write", [write_gif, write_mp4])
@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8)],
    ids=["no colours", "float", "none"],
)
def test_what_is_not_a_video_is_refused(write, frames, tmp_path):
    with pytest.raises(RenderingError, match=r"frames must be uint8 \(T, height, width, 3\)"):
        write(tmp_path / "video", frames, 0.05)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_gif, write_mp4])
def test_a_folder_that_is_not_there_is_named(write, tmp_path):
    with pytest.raises(RenderingError, match="absent"):
        write(tmp_path / "absent" / "video", moving_square(), 0.05)


def test_an_interrupted_gif_leaves_the_old_file(tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def fail(self, data):
        write_bytes(self, data[:100])
        raise OSError("disk full")

    path = tmp_path / "video.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(RenderingError, match=r"video\.gif.*disk full"):
        write_gif(path, moving_square(), 0.05)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["video.gif"]


def test_without_ffmpeg_an_mp4_is_a_rendering_error(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    with pytest.raises(RenderingError, match=r"video\.mp4: ffmpeg cannot write the video: .*no-ffmpeg"):
        write_mp4(tmp_path / "video.mp4", moving_square(), 20.0)
    assert list(tmp_path.iterdir()) == []


# imageio-ffmpeg leaves its end of a broken pipe open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "script", ["exit 1", "cat > /dev/null; exit 1", 'cat > /dev/null; for last; do :; done; echo x > "$last"']
)
def test_an_ffmpeg_that_fails_leaves_no_video(script, tmp_path, monkeypatch):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\n{script}\n")
    ffmpeg.chmod(0o755)
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    monkeypatch.chdir(tmp_path)  # imageio first asks ffmpeg for a video to `-`, which the last script takes for a file
    with pytest.raises(RenderingError, match="ffmpeg"):
        write_mp4(tmp_path / "videos" / "video.mp4", moving_square(), 20.0)
    gc.collect()
    assert list((tmp_path / "videos").iterdir()) == []
