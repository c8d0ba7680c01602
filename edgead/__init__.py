"""Visual anomaly detection from Good images to a running production line."""

import os

# The largest image that is decoded, pixels: a small file can promise more than the memory holds. OpenCV looks at it
# when it is loaded, and nothing in this package loads it before.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))
# ONNX Runtime from 1.29 on tells Microsoft about models and machines, from a thread and a file in the user's folder. It
# looks at this when it is loaded, and nothing in this package loads it before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
