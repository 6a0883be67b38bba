"""Environments, evaluation and rendering."""
