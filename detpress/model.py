"""The place of `Model` before `detpress.api`, for plugins that import it from here."""

from detpress.detector.model import Model, apply_masks, new_model

__all__ = ["Model", "apply_masks", "new_model"]
