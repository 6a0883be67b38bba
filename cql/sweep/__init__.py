"""Many runs: jobs, stacks, worker processes and status."""
