"""Compress object detectors with any engine, measured by one exact Pascal VOC evaluator."""

from detpress.no_telemetry import switch_off

switch_off()
