"""Numbers of things in words."""


def counted(number: int, one: str, several: str = "") -> str:
    """`1 step`, `2 steps`; `several` where an s is not enough."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
