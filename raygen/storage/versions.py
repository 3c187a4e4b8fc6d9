"""Versions of what a result depends on, for manifests and reports."""

import importlib.metadata
import platform

import raygen

PACKAGES = ("ray", "torch", "torchvision", "diffusers", "transformers", "scikit-learn", "numpy", "pyarrow", "pillow")


def versions() -> dict[str, str | None]:
    """Versions of Python, raygen and what its results depend on; null for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "raygen": raygen.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
