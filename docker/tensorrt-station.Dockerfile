# A station on a PC or server with any NVIDIA GPU from compute capability 7.5 on (driver 580 or newer): engines of full
# TensorRT. Build it from the repository's root:
#   docker build -f docker/tensorrt-station.Dockerfile -t edgead-tensorrt-station .
# CUDA is in the wheels; the driver comes from the host, by the NVIDIA Container Toolkit.
FROM python:3.11-slim-bookworm

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PIP_NO_CACHE_DIR=1
WORKDIR /edgead
COPY . .
RUN pip install -c constraints.txt '.[stations,tensorrt]' onnx 'cuda-bindings>=13,<14'
# A station has no torch: it would be gigabytes that nothing uses.
RUN python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

RUN useradd --create-home station
USER station
WORKDIR /station
VOLUME /station
ENTRYPOINT ["edgead"]
CMD ["stream", "station.yaml"]
