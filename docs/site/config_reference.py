"""Pages of the reference that are generated from the config's schema and files."""


def keys_page() -> str:
    """Every key with type, bounds, default and meaning, as Markdown."""
    return "# Config keys\n"


def files_page() -> str:
    """The files of every config group, as Markdown."""
    return "# Config files\n"
