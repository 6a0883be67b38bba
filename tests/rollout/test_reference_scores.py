from types import MappingProxyType

import pytest

from cql.rollout.reference_scores import known_scores, reference_scores, scores_name, with_scores


def test_the_known_scores_are_those_of_d4rl():
    # d4rl/infos.py of Farama-Foundation/D4RL.
    assert known_scores("HalfCheetah-v5") == (-280.178953, 12135.0)
    assert known_scores("Hopper-v5") == (-20.272305, 3234.3)
    assert known_scores("Walker2d-v5") == (1.629008, 4592.3)
    assert known_scores("Ant-v5") == (-325.6, 3879.7)
    assert known_scores("Hopper-v2") == known_scores("Hopper-v4") == known_scores("Hopper-v5")


def test_the_known_scores_of_gymnasium_robotics_are_those_of_d4rl():
    # d4rl/infos.py too; the last digits are cut as in the table of constants that this project keeps.
    assert known_scores("AdroitHandDoor-v1") == (-56.512833, 2880.5693)
    assert known_scores("AdroitHandHammer-v1") == (-274.856578, 12794.1348)
    assert known_scores("AdroitHandRelocate-v1") == (-6.425911, 4233.8778)
    # D4RL's pen has 100 steps, gymnasium-robotics' 200.
    assert known_scores("AdroitHandPen-v1", None, 100) == (96.262799, 3076.8331)
    assert known_scores("AdroitHandPen-v1") is None
    ends = {"continuing_task": False}
    for maze in ("UMaze", "Medium", "Medium_Diverse_G", "Large", "Large_Diverse_GR"):
        assert known_scores(f"AntMaze_{maze}-v4", ends) == known_scores(f"AntMaze_{maze}-v5", ends) == (0.0, 1.0)
    four = ["microwave", "kettle", "light switch", "slide cabinet"]
    assert known_scores("FrankaKitchen-v1", {"tasks_to_complete": four}) == (0.0, 4.0)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "limit"),
    [
        ("Hopper-v5", {"healthy_reward": 2}, None),
        ("Hopper-v5", None, 500),
        ("Hopper-v5", {"continuing_task": False}, None),
        ("AdroitHandDoor-v1", {"reward_type": "sparse"}, None),
        ("AdroitHandDoorSparse-v1", None, None),
        ("AdroitHandDoor-v1", None, 100),
        ("AdroitHandPen-v1", None, 200),
        # Each step at the goal pays.
        ("AntMaze_UMaze-v4", None, None),
        ("AntMaze_UMaze-v4", {"continuing_task": True}, None),
        ("AntMaze_UMaze-v4", {"continuing_task": False, "reward_type": "dense"}, None),
        ("AntMaze_UMaze-v4", {"continuing_task": False}, 100),
        ("AntMaze_UMazeDense-v4", {"continuing_task": False}, None),
        ("AntMaze_Open-v4", {"continuing_task": False}, None),
        # Seven tasks, three tasks, and tasks that pay again and again.
        ("FrankaKitchen-v1", None, None),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["microwave", "kettle", "light switch"]}, None),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["kettle"] * 4}, None),
        ("FrankaKitchen-v1", {"tasks_to_complete": [*"abcd"], "remove_task_when_completed": False}, None),
        ("PointMaze_UMaze-v3", {"continuing_task": False}, None),
    ],
)
def test_an_environment_made_otherwise_has_no_known_scores(env_id, kwargs, limit):
    assert known_scores(env_id, kwargs, limit) is None
    assert reference_scores(env_id, "auto", kwargs, limit) is None
    assert reference_scores(env_id, [0, 1], kwargs, limit) == (0.0, 1.0)


def test_of_modules_that_of_the_robotics_environments_is_known():
    ends = {"continuing_task": False}
    assert known_scores("gymnasium_robotics:AntMaze_UMaze-v4", ends) == (0.0, 1.0)
    assert known_scores("gymnasium_robotics:AdroitHandDoor-v1") == known_scores("AdroitHandDoor-v1")
    for env_id in ("d4rl:AntMaze_UMaze-v4", "my_package:AntMaze_UMaze-v4", "gymnasium_robotics:Hopper-v5"):
        assert known_scores(env_id, ends if "AntMaze" in env_id else None) is None


@pytest.mark.parametrize(
    "env_id", ["Pusher-v5", "InvertedPendulum-v5", "Hopper", "Hopper-v6", "my_package:Hopper-v5", "me/Hopper-v5", ""]
)
def test_no_environment_has_the_scores_of_another(env_id):
    assert known_scores(env_id) is None
    assert reference_scores(env_id, "auto") is None


def test_a_reference_is_auto_nothing_two_returns_or_the_mapping_of_older_runs():
    assert reference_scores("Hopper-v5", "auto") == known_scores("Hopper-v5")
    assert reference_scores("Hopper-v5", None) is None
    assert reference_scores("Hopper-v5", [1, 2.5]) == (1.0, 2.5)
    old = MappingProxyType({"name": "somebody's", "min_score": 3.0, "max_score": 4})
    assert reference_scores("Hopper-v5", old) == (3.0, 4.0)


@pytest.mark.parametrize(
    "wrong", ["D4RL", 3.0, True, [], [1.0], [1.0, 2.0, 3.0], [1.0, "2"], [True, 2], {"max_score": 1}]
)
def test_another_form_is_refused(wrong):
    with pytest.raises(ValueError, match="neither auto, nor null, nor two returns"):
        reference_scores("Hopper-v5", wrong)


def test_scores_are_named_by_where_they_come_from():
    assert scores_name("Hopper-v5", (-20.272305, 3234.3)) == "D4RL"
    assert scores_name("Walker2d-v5", (-20.272305, 3234.3)) == "own"
    assert scores_name("Pusher-v5", (0.0, 1.0)) == "own"
    assert scores_name("AntMaze_UMaze-v4", (0.0, 1.0), {"continuing_task": False}) == "D4RL"
    assert scores_name("AntMaze_UMaze-v4", (0.0, 1.0)) == "own"


def test_the_scores_of_a_plain_config_are_written_out_whatever_its_form():
    old = {"name": "D4RL", "min_score": -20.272305, "max_score": 3234.3}
    for reference in ("auto", old, [-20.272305, 3234.3]):
        plain = {"seed": 1, "env": {"id": "Hopper-v5", "reference": reference, "eval_seed": 2}}
        found = with_scores(plain)
        assert found == {"seed": 1, "env": {"id": "Hopper-v5", "reference": [-20.272305, 3234.3], "eval_seed": 2}}
        assert plain["env"]["reference"] is reference
    assert with_scores({"env": {"id": "Pusher-v5", "reference": "auto"}})["env"]["reference"] is None
    assert with_scores({"seed": 1}) == {"seed": 1}
    maze = {"id": "AntMaze_UMaze-v4", "reference": "auto", "kwargs": {"continuing_task": False}}
    assert with_scores({"env": maze})["env"]["reference"] == [0.0, 1.0]
    assert with_scores({"env": {**maze, "max_episode_steps": 50}})["env"]["reference"] is None
    assert with_scores({"env": {**maze, "kwargs": None}})["env"]["reference"] is None
