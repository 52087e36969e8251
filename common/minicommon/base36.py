"""Numbers in base 36 with a fixed width, as Swarm writes ids and tokens."""

from __future__ import annotations

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def encode(value: int, width: int) -> str:
    """`value` in base 36, zero-padded on the left to `width`.

    Raises ValueError when it does not fit.
    """
    digits: list[str] = []
    rest = value
    while rest > 0:
        rest, digit = divmod(rest, 36)
        digits.append(ALPHABET[digit])
    if value < 0 or len(digits) > width:
        raise ValueError(f"{value} does not fit in {width} base-36 digits")
    return "".join(reversed(digits)).rjust(width, "0")


def decode(text: str) -> int:
    """The number that lower-case base-36 `text` spells. Raises ValueError for anything else."""
    if not text or any(char not in ALPHABET for char in text):
        raise ValueError(f"not base 36: {text!r}")
    return int(text, 36)
