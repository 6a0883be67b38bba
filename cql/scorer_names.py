"""The names of the scorers of :mod:`cql.algorithm.scorers`, for what needs no NumPy."""

PREFIX = "offline_"
"""Before the name of a scorer in the metrics of a run."""

DIRECTIONS = {
    "td_error": -1,
    "q_data": 1,
    "q_policy": 1,
    "advantage": 1,
    "soft_opc": 1,
    "action_distance": -1,
    "initial_value": 1,
}
"""The scorers, and whether the larger value (1) or the smaller one (-1) is taken for that of the better policy."""
