"""A run with every runtime asks for no address outside this machine and leaves nothing in the user's folders."""

import os
import subprocess
import sys
from pathlib import Path

from detpress.voc.digits import write_digits

RECIPE = """\
name: small
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}
chain:
  - train.scratch: {epochs: 1, batch_size: 4}
measure: {runtimes: [torch, onnxruntime, openvino], threads: 1}
"""

# Python runs this first in each process. Look-ups by C libraries are not seen here: what ONNX Runtime reports, it first
# writes in the home folder.
WATCH = """\
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        asked = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    else:
        return
    if asked not in (None, "localhost", "127.0.0.1", "::1"):
        with open(os.environ["ASKED"], "a") as file:
            print(event, asked, file=file)

sys.addaudithook(watch)
"""


def test_a_run_with_every_runtime_reports_to_nobody(tmp_path: Path) -> None:
    home, watch, asked = tmp_path / "home", tmp_path / "watch", tmp_path / "asked.txt"
    for folder in (home, watch):
        folder.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    write_digits(tmp_path / "digits", {"train": 4, "val": 2, "test": 2})
    # What switches reports off, or says that a test runs, is taken away: engines must not be silent for that alone.
    loud = ("XDG_", "CI", "GITHUB_", "TF_BUILD", "JENKINS_", "PYTEST_", "DO_NOT_", "ORT_", "MLFLOW_", "HF_", "RAY_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(loud)} | {
        "HOME": str(home),
        "ASKED": str(asked),
        "DETPRESS_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(watch), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(":"),
    }
    command = [sys.executable, "-m", "detpress.cli", "run", "small.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not asked.exists(), asked.read_text(encoding="utf-8")
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("cache", "digits", "home", "runs", "small.yaml", "watch")
    ]


def test_what_the_user_has_set_himself_holds() -> None:
    say = "import detpress, os; print(os.environ['RAY_USAGE_STATS_ENABLED'], os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run([sys.executable, "-c", say], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
