"""The place of the tuners' contract before `detpress.api`, for tuners that import it from here."""

from detpress.contract.tuner import Assessor, Distribution, Judge, Proposals, Space, Tuner

__all__ = ["Assessor", "Distribution", "Judge", "Proposals", "Space", "Tuner"]
