"""Where generated and downloaded files are kept."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_root() -> Path:
    """The folder for everything that can be made or fetched again: `$DETPRESS_CACHE`, or the platform's user cache."""
    override = os.environ.get("DETPRESS_CACHE")
    return Path(override).expanduser().resolve() if override else user_cache_path("detpress")
