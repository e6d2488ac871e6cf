"""A value or an error as a message shows it: on one line, and not too long."""

__all__ = ["first_line", "one_line", "short", "shortened", "without_middle"]


def first_line(error: object) -> str:
    """Return what an error or a text says without its further lines; "" if it says nothing."""
    return (str(error).splitlines() or [""])[0]


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks; the error's type if it has no message."""
    return " ".join((str(error) or type(error).__name__).split())


def shortened(text: str, most: int) -> str:
    """Return the text, or its beginning and `...`, in at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def without_middle(text: str) -> str:
    """Return the text, or both its ends if it is longer than 300 characters: for paths."""
    return text if len(text) <= 300 else f"{text[:120]}...{text[-120:]}"


def short(value: object, most: int = 60) -> str:
    """Return a value as printable ASCII, cut to `most` characters."""
    return shortened(ascii(value), most)
