"""The process in which a training runs: sums in a fixed order, Ctrl-C as ever, progress told across processes."""

import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from detpress.progress import Progress

Report = Callable[[tuple[str, int, int]], None]  # `Progress`, its arguments in one


@contextmanager
def deterministic() -> Iterator[None]:
    """Sums in a fixed order, on GPUs and for gradients of indexed tensors; what cannot is warned of."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # would cost a twentieth of the time, and nothing reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled


@contextmanager
def seeded(seed: int, gpus: Sequence[int] | None = None) -> Iterator[None]:
    """The global generators of Python, NumPy and PyTorch start from `seed`; afterwards they are as they were.

    seed: below 2**32. gpus: those whose generators are put back; all by default.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(gpus):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_available():  # `torch.manual_seed` notes the whole stack where there is no GPU, every time
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def ctrl_c_left_alone() -> Iterator[None]:
    """Lightning answers Ctrl-C by leaving the program, and ignores it from then on; here it stays what it was."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise stop.__context__ from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def across_processes(progress: Progress, devices: int) -> Iterator[Report]:
    """What calls `progress`; with several devices it can be called in their processes, too."""
    if devices == 1:
        yield lambda message: progress(*message)
        return
    messages = torch.multiprocessing.get_context("spawn").SimpleQueue()

    def hand_on() -> None:
        for message in iter(messages.get, None):
            progress(*message)

    reader = threading.Thread(target=hand_on)
    reader.start()
    try:
        yield messages.put
    finally:
        messages.put(None)
        reader.join()
