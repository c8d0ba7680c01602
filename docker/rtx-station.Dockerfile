# A station on a PC with an RTX GPU (compute capability 7.5, 8.6, 8.9, 12.0 or 12.1; driver 580 or newer): engines of
# TensorRT-RTX. Build it from the repository's root:
#   docker build -f docker/rtx-station.Dockerfile -t edgead-rtx-station .
# CUDA is in the wheels; the driver comes from the host, by the NVIDIA Container Toolkit.
FROM python:3.11-slim-bookworm

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PIP_NO_CACHE_DIR=1
WORKDIR /edgead
COPY . .
RUN pip install -c constraints.txt '.[stations,tensorrt-rtx]' onnx 'cuda-bindings>=13,<14'
# A station has no torch: it would be gigabytes that nothing uses.
RUN python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

RUN useradd --create-home station
USER station
WORKDIR /station
VOLUME /station
ENTRYPOINT ["edgead"]
CMD ["stream", "station.yaml"]
