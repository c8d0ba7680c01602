# A station on a Jetson Orin with JetPack 6.1 or 6.2: TensorRT 10.3 and CUDA 12.6 of that JetPack. Build it on the
# Jetson, from the repository's root:
#   docker build -f docker/jetpack6-station.Dockerfile -t edgead-jetpack6-station .
# NVIDIA's image for L4T 36.4; the GPU comes from the host, by the NVIDIA Container Toolkit.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1
RUN apt-get update \
 && apt-get install -y python3-libnvinfer python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /edgead
RUN python3 -m venv --system-site-packages .venv
ENV PATH=/edgead/.venv/bin:$PATH
COPY . .
RUN pip install -c constraints.txt '.[stations]' onnx 'cuda-bindings>=12,<13'
# A station has no torch: it would be gigabytes that nothing uses.
RUN python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

# The group video may open a Jetson's GPU.
RUN useradd --create-home --groups video station
USER station
WORKDIR /station
VOLUME /station
ENTRYPOINT ["edgead"]
CMD ["stream", "station.yaml"]
