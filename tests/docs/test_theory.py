"""docs/theory: the toy problem behind its figures, in a few of its steps."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from pages import ROOT


@pytest.fixture(scope="module")
def toy():
    """docs/figures/one_dimension.py as a module."""
    path = ROOT / "docs/figures/one_dimension.py"
    spec = importlib.util.spec_from_file_location("one_dimension", path)
    sys.modules["one_dimension"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["one_dimension"]


def test_the_numbers_have_their_shapes_and_are_drawn(toy):
    fixed, learned = toy.train(toy.FIXED, n_steps=20, n_seeds=2), toy.train(toy.LEARNED, n_steps=20, n_seeds=2)
    for runs, n_settings in ((fixed, 4), (learned, 3)):
        assert runs.steps.tolist() == [1, 2, 4, 20]
        assert runs.q.shape == (4, n_settings, 2, len(toy.ACTIONS))
        assert runs.action.shape == (n_settings, 2)
        assert runs.metrics["cql_gap"].shape == (20, n_settings, 2)
        assert all(np.isfinite(numbers).all() for numbers in (runs.q, runs.action, *runs.metrics.values()))
    assert np.array_equal(toy.train(toy.FIXED, n_steps=20, n_seeds=2).q, fixed.q)
    titles = [axes.get_title() for axes in toy.draw_values(fixed).axes]
    assert titles == ["alpha_cql 0: SAC", "alpha_cql 0.5", "alpha_cql 5", "alpha_cql 20"]
    assert len(toy.draw_overestimation(fixed).axes) == 2
    assert len(toy.draw_thresholds(learned).axes) == 3


def test_sac_overestimates_actions_beyond_the_data_and_cql_does_not(toy):
    runs = toy.train([toy.FIXED[0], toy.FIXED[1]], n_steps=300, n_seeds=1)
    actions, (_, last) = toy.ACTIONS, toy.DATA
    beyond = actions > last
    sac, cql = runs.q[-1, :, 0]
    assert sac[beyond].max() > toy.best_q().max() + 5
    assert abs(runs.action[0, 0]) > 0.8
    assert cql.max() < toy.best_q().max()
    assert cql[beyond].min() < cql[~beyond].min()
    assert toy.DATA[0] < runs.action[1, 0] < last
