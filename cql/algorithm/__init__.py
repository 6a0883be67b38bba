"""What CQL is: torch in, torch out; no file, no Hydra, no environment."""
