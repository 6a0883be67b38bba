"""Schemas of every config, their checks, and what makes two runs the same."""
