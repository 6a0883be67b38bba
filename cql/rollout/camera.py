"""Pictures of environments: any that renders `rgb_array`, and MuJoCo's with a camera of our own."""

from __future__ import annotations

import atexit
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cql.rollout import robotics
from cql.rollout.envs import EnvSpec, make_env, simulator_of
from cql.rollout.rendering import MIN_FRAME_STD, RenderingError, choose_backend

if TYPE_CHECKING:
    import gymnasium


class Camera:
    """An environment that is drawn as it draws itself.

    Args:
        env: the environment, made for pictures.
        width: of the pictures in pixels.
        height: likewise.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], width: int, height: int) -> None:
        self.env, self._size = env, (width, height)

    def aim(self) -> None:
        """Choose what is seen, at the beginning of an episode."""

    def shoot(self) -> NDArray[np.uint8]:
        """Take a picture, uint8 (height, width, 3).

        Raises:
            RenderingError: drawing failed, or the picture is blank.
        """
        try:
            frame = self._draw()
        except Exception as error:
            raise RenderingError(f"{self.env.spec}: drawing failed: {error!r}") from error
        if not frame.std() > MIN_FRAME_STD:
            raise RenderingError(
                "the picture is blank: the OpenGL context was lost, perhaps because another rendering environment of "
                "this process was closed"
            )
        return frame

    def _draw(self) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        frame: Any = self.env.render()
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)):
            raise ValueError("render() returned no picture, uint8 (height, width, 3)")
        if frame.shape[1::-1] != self._size:
            frame = np.asarray(ImageOps.pad(Image.fromarray(frame), self._size))
        return np.ascontiguousarray(frame)


class _MujocoCamera(Camera):
    """A MuJoCo environment that is drawn, made ready for small pictures in real time.

    Reflections and the 4096 x 4096 shadow map cost four fifths of the time of a small picture and tell little in it, so
    both are off. The models' black and white floor and grey sky become two calm pairs of colours, which compress
    better and set the robots' orange off, with squares of one size for all. The floor is made ten times as large,
    because a good cheetah runs off its 40 metres within six seconds. None of this touches the physics.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], width: int, height: int) -> None:
        import mujoco

        super().__init__(env, width, height)
        simulator = simulator_of(self.env)
        self._model, self._data = simulator.model, simulator.data
        self._model.vis.quality.shadowsize = 0
        self._model.vis.headlight.ambient[:] = 0.3
        self._model.vis.headlight.diffuse[:] = 0.5
        _colour(self._model)
        self._is_maze = hasattr(self.env.unwrapped, "maze")
        if self._is_maze:  # light from straight above makes pale walls white
            self._model.vis.headlight.diffuse[:] = 0.35
        # Hands, kitchens and the like come with a view of their own that shows what matters.
        self._has_view = robotics.is_own(self.env) and not self._is_maze
        if not self._has_view:
            # -1 is the free camera, which `_draw` moves. The models' own "track" cameras stand too far away, bob with
            # the body, and are not what every gymnasium version picks.
            simulator.mujoco_renderer.camera_id = -1
        self.env.reset(seed=0)
        self.env.render()  # makes the viewer
        self._viewer = simulator.mujoco_renderer.viewer
        self._viewer.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._follows = _moves_about(self._model) and not (self._is_maze or self._has_view)
        from_above = self._is_maze or _is_flat(self._model)
        if not self._has_view:
            self._viewer.cam.azimuth, self._viewer.cam.elevation = 90.0, -90.0 if from_above else -12.0

    def aim(self) -> None:
        """Choose the distance, and what the camera looks at, from the robot as it is now.

        A robot that moves about fills three fifths of the picture. An arm is seen with all that it can reach, a maze as
        a whole.
        """
        if self._has_view:
            return
        low, high = _extent(self._model, self._data, np.flatnonzero(self._model.geom_bodyid > 0))
        middle, size, share = (low + high) / 2, float((high - low).max()), 0.6
        if self._is_maze:
            low, high = _extent(self._model, self._data, _walls(self._model))
            middle, size, share = (low + high) / 2, float((high - low)[:2].max()), 0.9
        elif not self._follows:
            has_root = self._model.body_rootid[self._model.geom_bodyid]
            arm = np.flatnonzero(has_root == 1)
            if not len(arm):  # the first body has no shape
                arm = np.flatnonzero(has_root > 0)
            low, high = _extent(self._model, self._data, arm)
            middle, share = self._data.xpos[1], 0.9
            size = 2 * float(np.maximum(abs(low - middle), abs(high - middle)).max())
        self._viewer.cam.lookat[:] = middle
        visible_per_distance = 2 * math.tan(math.radians(float(self._model.vis.global_.fovy)) / 2)
        self._viewer.cam.distance = size / visible_per_distance / share

    def _draw(self) -> NDArray[np.uint8]:
        if self._follows:  # the centre of mass stays in the middle
            self._viewer.cam.lookat[:2] = self._data.subtree_com[1, :2]
        # gymnasium leaves the context of the environment that was made last current; another environment's picture
        # would be drawn with its textures.
        self._viewer.make_context_current()
        return super()._draw()


#: Rendering environments, kept until the process ends. With gymnasium 1.4 and MuJoCo 4, collecting a closed rendering
#: environment turns every other one's pictures black, silently and for good; so none is ever closed before the end.
_cameras: dict[tuple[EnvSpec, int, int], Camera] = {}


def camera(env: EnvSpec, width: int, height: int) -> Camera:
    """The one camera for this environment and size, which is made if there is none yet.

    Raises:
        RenderingError: nothing can draw here, or the environment cannot be drawn.
    """
    key = (env, width, height)
    if key not in _cameras:
        backend = choose_backend()  # before MuJoCo is imported
        try:
            made = make_env(env, render=True, width=width, height=height)
            if not hasattr(simulator_of(made), "mujoco_renderer"):
                _cameras[key] = Camera(made, width, height)
            elif backend is not None:
                _cameras[key] = _MujocoCamera(made, width, height)
            else:
                made.close()
        except Exception as error:  # a missing or broken OpenGL shows in many ways, AttributeError among them
            raise RenderingError(f"{env.id} cannot be drawn: {error!r}") from error
        if key not in _cameras:
            raise RenderingError("nothing can draw here; the log says why and what to install")
    return _cameras[key]


@atexit.register
def _close_cameras() -> None:
    """Close them while PyOpenGL still works: its destructors fail noisily when the interpreter is half gone."""
    for camera in _cameras.values():
        camera.env.close()
    _cameras.clear()


_TILE_METRES = 1.5  # two squares of the floor, in each direction
_FLOOR = ((38, 54, 74), (54, 75, 100))  # dark and light squares
_SKY = ((35, 50, 70), (150, 175, 205))  # below and above


def _colour(model: Any) -> None:
    """Give the floor and the sky of a MuJoCo model calm colours, and enlarge the floor; before the first picture."""
    import mujoco

    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE):
        material = model.geom_matid[geom]
        model.geom_size[geom, :2] *= 10
        model.geom_size[geom, 2] = model.geom_size[geom, :2].max()  # one quadrangle; Hopper's 40,000 take half the time
        if material < 0:
            continue
        model.mat_texrepeat[material] = 2 * model.geom_size[geom, :2] / _TILE_METRES
        model.geom_rgba[geom] = 1
        texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
        if texture >= 0:
            _repaint(model, texture, *_FLOOR)
    for sky in np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX):
        _repaint(model, int(sky), *_SKY)


def _repaint(model: Any, texture: int, dark: tuple[int, int, int], light: tuple[int, int, int]) -> None:
    """Replace a texture's shades from darkest to lightest by those between two colours."""
    n_channels = model.tex_nchannel[texture]
    start = model.tex_adr[texture]
    size = model.tex_width[texture] * model.tex_height[texture] * n_channels
    pixels = model.tex_data[start : start + size].reshape(-1, n_channels)
    shade = pixels[:, :3].mean(axis=1, keepdims=True)
    shade = (shade - shade.min()) / max(1.0, float(np.ptp(shade)))
    pixels[:, :3] = np.round((1 - shade) * np.array(dark) + shade * np.array(light))


def _moves_about(model: Any) -> bool:
    """Whether the robot's first body can leave its place; that of an arm cannot."""
    import mujoco

    first = model.jnt_type[model.jnt_bodyid == 1]
    return bool(np.isin(first, (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE)).any())


def _is_flat(model: Any) -> bool:
    """Whether everything moves in the horizontal plane, so that it is seen from above."""
    import mujoco

    upright = np.abs(model.jnt_axis[:, 2])
    hinges = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (upright > 0.99)
    slides = (model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE) & (upright < 0.01)
    return bool((hinges | slides).all())


def _walls(model: Any) -> NDArray[np.int64]:
    """What stands still besides the floor."""
    import mujoco

    return np.flatnonzero((model.geom_bodyid == 0) & (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE))


def _extent(model: Any, data: Any, geoms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner of the box around some geoms, in metres: two arrays (3,)."""
    rotations = data.geom_xmat[geoms].reshape(-1, 3, 3)
    centres, halves = model.geom_aabb[geoms, :3], model.geom_aabb[geoms, 3:]
    positions = data.geom_xpos[geoms] + np.einsum("gij,gj->gi", rotations, centres)
    halves = np.einsum("gij,gj->gi", np.abs(rotations), halves)
    return (positions - halves).min(axis=0), (positions + halves).max(axis=0)
