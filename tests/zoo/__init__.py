"""Healthy models of other people's making, tiny: no check may raise an alarm on any of them.

`from zoo import healthy`; each check's own tests plant their faults in copies.
"""

from __future__ import annotations

from collections.abc import Iterator

from zoo import audio_series, handmade, initialisations, language, torch_layers, vision
from zoo.specimen import Specimen

__all__ = ["Specimen", "healthy", "specimen"]
_SHELVES = (language, vision, audio_series, torch_layers, handmade, initialisations)


def healthy(family: str | None = None) -> Iterator[Specimen]:
    """Yield every specimen, or those of one family. Models are built only when `make` is called."""
    for shelf in _SHELVES:
        for found in shelf.specimens():
            if family in (None, found.family):
                yield found


def specimen(name: str) -> Specimen:
    """Return the specimen of this name."""
    return next(found for found in healthy() if found.name == name)
