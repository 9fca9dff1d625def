"""The base of everything that a recipe may set."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of options: unknown keys refused, no silent conversion, defaults checked too."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    def is_default(self, option: str) -> bool:
        """Whether the recipe leaves the option out."""
        return option not in self.model_fields_set
