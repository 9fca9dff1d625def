"""Makes an environment: by uv where that is installed, by venv and pip otherwise."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

from filelock import FileLock

from detpress.environments.environment import MADE, Environment
from detpress.errors import InputError, StageError
from detpress.files.folders import remove_folder, write_atomically

LAST_LINES = 3  # of what an installer says, in an error

Commands = list[list[str]]


def install(environment: Environment) -> bool:
    """Makes it, unless it is there; whether it was made now. What a killed installation has left is made anew.

    Raises InputError where nothing is there to install with, StageError where the installer fails.
    """
    folder = environment.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if environment.is_made:
            return False
        remove_folder(folder)
        commands = _by_uv(environment) if shutil.which("uv") else _by_pip(environment)
        for command in commands:
            _run(command)
        made = {"requirements": sorted(environment.requirements), "python": sys.version, "commands": commands}
        write_atomically(folder / MADE, json.dumps(made, indent=1))
        return True


def _by_uv(environment: Environment) -> Commands:
    return [
        ["uv", "venv", "--quiet", "--python", sys.executable, str(environment.folder)],
        ["uv", "pip", "install", "--quiet", "--python", str(environment.python), *environment.requirements],
    ]


def _by_pip(environment: Environment) -> Commands:
    """With the pip that is here; the environment needs none."""
    # Asked of the metadata: to look for the module has setuptools put the standard library's distutils in place of its
    # own (pypa/pip#8761), and torch.compile would fail in this process from then on.
    if not any(importlib.metadata.distributions(name="pip")):
        raise InputError(f"neither uv nor pip is here to install {', '.join(environment.requirements)} with")
    pip = [sys.executable, "-P", "-m", "pip", "--python", str(environment.python)]
    return [
        [sys.executable, "-P", "-m", "venv", "--without-pip", str(environment.folder)],
        [*pip, "install", "--quiet", "--no-input", "--disable-pip-version-check", *environment.requirements],
    ]


def _run(command: list[str]) -> None:
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # what lies there is not in it
    done = subprocess.run(command, env=around, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise StageError(f"{' '.join(command)} failed: {' | '.join(lines[-LAST_LINES:]) or 'it says nothing'}")
