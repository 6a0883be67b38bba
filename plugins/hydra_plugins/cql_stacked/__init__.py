"""Hydra finds launchers in the packages of this namespace; see ``launcher``."""
