"""Files that the user gives: a pipe in a file's place would be waited for, and a device read, without end."""

import errno
import stat
from pathlib import Path


def plain(path: Path) -> Path:
    """The path, whose file may be opened. Raises OSError where it is absent, a folder, a pipe or a device."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, no plain file", str(path))
    return path
