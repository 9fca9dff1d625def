"""Brings mine.round to detpress."""
