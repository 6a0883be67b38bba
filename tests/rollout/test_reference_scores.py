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


def test_the_scores_of_a_plain_config_are_written_out_whatever_its_form():
    old = {"name": "D4RL", "min_score": -20.272305, "max_score": 3234.3}
    for reference in ("auto", old, [-20.272305, 3234.3]):
        plain = {"seed": 1, "env": {"id": "Hopper-v5", "reference": reference, "eval_seed": 2}}
        found = with_scores(plain)
        assert found == {"seed": 1, "env": {"id": "Hopper-v5", "reference": [-20.272305, 3234.3], "eval_seed": 2}}
        assert plain["env"]["reference"] is reference
    assert with_scores({"env": {"id": "Pusher-v5", "reference": "auto"}})["env"]["reference"] is None
    assert with_scores({"seed": 1}) == {"seed": 1}
