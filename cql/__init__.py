"""An experiment framework for Conservative Q-Learning (CQL)."""
