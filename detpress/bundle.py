"""The place of bundles before `detpress.api`, for scripts that import them from here."""

from detpress.builtin import find_bundle
from detpress.encodings.bundle import load_bundle, save_bundle

__all__ = ["find_bundle", "load_bundle", "save_bundle"]
