"""An environment of an engine's own: where it lies, and what is installed in it.

$DETPRESS_CACHE/environments/onnxruntime-3fa94c1be07d/    one for all plugins that require the same
    bin/python, lib/...
    made.json                                             written last: an environment without it is none
"""

import hashlib
import json
import platform
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from detpress.cache import cache_root
from detpress.errors import InputError, shortened

MADE = "made.json"


@dataclass(frozen=True)
class Environment:
    """What these requirements (PEP 508, such as `onnxruntime==1.20.1`) ask for, in this Python."""

    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        parts = [sorted({*self.requirements}), platform.python_version(), platform.system(), platform.machine()]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return (
            cache_root() / "environments" / f"{canonicalize_name(requirement(self.requirements[0]).name)}-{digest[:12]}"
        )

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def is_made(self) -> bool:
        """False also where the Python that it was made with is gone."""
        return (self.folder / MADE).is_file() and self.python.exists()

    @property
    def packages(self) -> list[str]:
        """The names of those that are required here, each as `pip` spells it."""
        wanted = [requirement(text) for text in self.requirements]
        return [canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate()]

    @property
    def versions(self) -> dict[str, str]:
        """What is installed now of the packages that are required, by name."""
        base = {"base": str(self.folder), "platbase": str(self.folder)}
        path = [sysconfig.get_path(kind, "venv", base) for kind in ("purelib", "platlib")]
        found = {name: list(metadata.distributions(name=name, path=path)) for name in sorted(self.packages)}
        return {name: each[0].version for name, each in found.items() if each}

    def __str__(self) -> str:
        """What is in it, and where it lies."""
        return f"{', '.join(f'{name} {number}' for name, number in self.versions.items())} ({self.folder})"


def requirement(text: str) -> Requirement:
    """Raises InputError for what is none of PEP 508."""
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise InputError(f"{shortened(text)} is no requirement such as 'numpy<2'") from error
