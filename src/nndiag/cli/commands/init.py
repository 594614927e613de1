"""nndiag init."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nndiag.cli.streams import put
from nndiag.core.errors import UsageError

if TYPE_CHECKING:
    from nndiag.load.discover import Discovered

TARGET = "nndiag.toml"


def init(
    folder: Annotated[Path, typer.Argument(help="Where to look; the file is written there.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing nndiag.toml.")] = False,
) -> None:
    """Write a commented nndiag.toml from what is found here: models, data, trainers' configs. Runs none of it.

    Example: nndiag init
    """
    from nndiag.cli.files import write_atomically
    from nndiag.load.discover import discover

    if not folder.is_dir():
        raise UsageError(f"no folder '{folder}'", hint="nndiag init takes a folder, the current one by default")
    path = folder / TARGET
    if path.exists() and not force:
        raise UsageError(f"'{path}' exists", hint="--force replaces it")
    found = discover(folder)
    write_atomically(path, configuration(found))
    put(f"wrote {path}")
    put("next: nndiag all" if found.models else "next: fill in model = …, then nndiag all")


def configuration(found: Discovered) -> str:
    """Return a commented configuration that names what was found; what was not stays a comment."""
    lines = [
        "# nndiag reads this file from here or any folder below. Command line > NNDIAG_* environment > this file.",
        "",
        *_choice("model", found.models, "file.py:build_model"),
        "# model-args = { width = 256 }",
        *_choice("data", found.data, "file.py:train_loader"),
        '# loss = "cross_entropy"                  # or "train.py:loss"',
        '# optimizer = { name = "adamw", lr = 3e-4, weight-decay = 0.1 }',
        "",
        '# fail-on = "error"                       # error, warning, note, never',
        '# output = ["json:nndiag.json", "html:nndiag.html"]',
        "",
        "# [entropy-floor]",
        '# labels = "labels.npy"',
        *(f'# curve = "{curve}"' for curve in found.curves[:3]),
        "# label-smoothing = 0.1",
        "",
        "# [multigpu-lr]",
        *(f'# configs = ["{name}"]' for name in found.configs[:1]),
        "# base-lr = 3e-4",
        "# base-batch = 64",
        "# gpus = 8",
        "# per-device-batch = 64",
        "",
        "# [[ignore]]",
        '# code = "DRP105"',
        '# where = "encoder.*"',
        '# reason = "why it is accepted"',
    ]
    return "\n".join(lines) + "\n"


def _choice(key: str, found: tuple[str, ...], example: str) -> list[str]:
    if not found:
        return [f'# {key} = "{example}"']
    return [f'{key} = "{found[0]}"', *(f'# {key} = "{other}"' for other in found[1:6])]
