"""Many runs: stacks, their status, the names of their points."""
