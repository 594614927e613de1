"""nndiag env: versions and devices, to paste into an issue."""

from __future__ import annotations

import typer

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "typer",
    "rich",
    "jinja2",
    "matplotlib",
    "safetensors",
    "PyYAML",
    "transformers",
    "keras",
    "lightning",
    "pyarrow",
    "pillow",
    "tensorboard",
)


def env() -> None:
    """Print versions and devices, to paste into an issue."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from nndiag import __version__

    typer.echo(f"nndiag {__version__}")
    typer.echo(f"python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} not installed")
    import torch

    typer.echo(f"cpus {os.cpu_count()}, torch threads {torch.get_num_threads()}")
    devices = []
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        devices = [f"{kind}:{index}" for index in range(torch.accelerator.device_count())]
    typer.echo(f"devices {', '.join(['cpu', *devices])}")
