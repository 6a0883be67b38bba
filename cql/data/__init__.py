"""Offline datasets: read, collected, inspected, and made one set of tensors."""
