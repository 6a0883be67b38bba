"""The page of the reference that is generated from the commands' own help."""


def page() -> str:
    """The help of every command, as Markdown."""
    return "# Commands\n"
