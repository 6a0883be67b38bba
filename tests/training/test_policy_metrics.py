"""The metrics of a policy at recorded states, against the policy that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny import tiny_config

import cql
from cql.training import experiment
from cql.training.local_logger import read_metrics


def test_they_are_those_of_the_policy_of_the_checkpoint(dataset: Path, no_figures: None, tmp_path: Path) -> None:
    experiment.run(tiny_config(dataset, "n_steps=40", "n_steps_per_epoch=20", "n_epochs_per_eval=2"), tmp_path)
    first, last = read_metrics(tmp_path)
    assert "action_distance" not in first  # only at evaluations
    policy = cql.load(tmp_path, "last")
    with h5py.File(dataset) as file:
        states, actions = file["observations"][:], file["actions"][:]
        ends = np.flatnonzero(file["terminals"][:] | file["timeouts"][:])
    own = policy.act(states)
    distances = np.abs(own - actions)[:, 0] / 3.0  # the bounds of the environment are -3 and 3
    assert last["action_distance"] == pytest.approx(distances.mean(), rel=0.05)  # a sample of the states
    assert last["at_bounds"] == (np.abs(own) > 2.97).mean() == 0.0
    starts = states[[0, *(ends[:-1] + 1)]]
    assert last["initial_value"] == pytest.approx(float(np.mean(policy.q(starts, policy.act(starts)))), rel=1e-4)
