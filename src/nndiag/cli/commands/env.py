"""nndiag env: versions and devices, to paste into an issue."""

from __future__ import annotations

from nndiag.cli.streams import put

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

    put(f"nndiag {__version__}")
    put(f"python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            put(f"{name} {version(name)}")
        except PackageNotFoundError:
            put(f"{name} not installed")
    import torch

    put(f"cpus {os.cpu_count()}, torch threads {torch.get_num_threads()}")
    devices = []
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        devices = [f"{kind}:{index}" for index in range(torch.accelerator.device_count())]
    put(f"devices {', '.join(['cpu', *devices])}")
