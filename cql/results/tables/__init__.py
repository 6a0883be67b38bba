"""A paper's table: what its file says, the sweep that trains it, and its runs beside the published numbers."""
