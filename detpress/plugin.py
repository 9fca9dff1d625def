"""The place of the contract before `detpress.api`, for plugins that import it from here."""

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError, StageError
from detpress.options import Options as Config
from detpress.training.image_counts import ImageCounts

__all__ = ["Config", "Form", "ImageCounts", "InputError", "Plan", "Plugin", "StageError", "Workbench"]
