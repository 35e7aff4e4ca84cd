"""The versions, the machine and the device of a run, for its record."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import jax

PACKAGES = ("jax", "jaxlib", "optax", "numpy")


def environment() -> dict[str, str]:
    """Versions, machine and device; nothing that names the user or the machine.

    >>> sorted(environment())
    ['bilevel', 'cores', 'device', 'jax', 'jaxlib', 'numpy', 'optax', 'platform', 'python']
    """
    devices = jax.devices()
    return {
        # The version of this code, because pip may know the version of an older checkout.
        "bilevel": importlib.import_module("bilevel").__version__,
        **{name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "not installed"
