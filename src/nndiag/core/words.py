"""Numbers and nouns that agree."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 layer", "2 layers", "1,024 layers".

    Args:
        number: How many.
        noun: In the singular.
        plural: Where it is not the noun with an s.

    Example:
        >>> counted(1, "distinct unit"), counted(20_000, "layer"), counted(2, "batch", "batches")
        ('1 distinct unit', '20,000 layers', '2 batches')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def agreed(number: int, one: str, many: str) -> str:
    """Return the word that goes with a number: "1 layer starts", "2 layers start"."""
    return one if number == 1 else many
