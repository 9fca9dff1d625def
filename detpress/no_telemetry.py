"""Nothing leaves the machine unasked: what the engines would report about their use is switched off.

It must have run before the first of them is imported, so importing `detpress` runs it. Where the user has set one of
the variables himself, his setting holds; processes that are started from here inherit them.
"""

import os
import sys

SWITCHES = {
    "DO_NOT_TRACK": "1",  # huggingface_hub and others that keep to https://donottrack.sh
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def switch_off() -> None:
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    # OpenVINO and NNCF know no variable; both do without their reporter where it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
