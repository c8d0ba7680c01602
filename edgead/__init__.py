"""Visual anomaly detection from Good images to a running production line."""

__version__ = "0.1.0"
