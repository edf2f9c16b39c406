"""The figures of a report, drawn by matplotlib."""


def plain(text: str) -> str:
    """A name, escaped for matplotlib, which reads $...$ as mathematics."""
    return text.replace("$", r"\$")
