"""Python environments that engines have for themselves: made once, called from a stage."""

from detpress.environments.environment import Environment, requirement

__all__ = ["Environment", "requirement"]
