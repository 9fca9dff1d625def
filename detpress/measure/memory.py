"""How much memory a model needs, measured on a process of its own: `python -P -m detpress.measure.memory BUNDLE`."""

import resource
import subprocess
import sys
from pathlib import Path

from detpress.errors import StageError

STATUS = Path("/proc/self/status")


def peak_memory(bundle: Path) -> int:
    """Largest resident memory, in bytes, of a process that loads the bundle and runs it on one image in PyTorch.

    PyTorch and Python are in it, so a small network does not come near zero.
    """
    # -P: a module of the user's in the working directory is none of ours.
    command = [sys.executable, "-P", "-m", "detpress.measure.memory", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise StageError(f"{bundle}: peak memory could not be measured: {last_line}")
    return int(done.stdout)


def own_peak() -> int:
    """Largest resident memory of this process so far, in bytes.

    On Linux `ru_maxrss` is no less than what the parent held when it started this process; the kernel's high-water
    mark of the process's own memory is read instead.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def main() -> None:
    import torch

    from detpress.encodings.bundle import load_bundle

    model = load_bundle(Path(sys.argv[1]))
    size = model.architecture.input_size
    with torch.inference_mode():
        model.network(torch.zeros(1, 3, *size))
    print(own_peak())


if __name__ == "__main__":
    main()
