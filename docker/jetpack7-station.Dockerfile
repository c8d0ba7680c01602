# A station on a Jetson with JetPack 7: TensorRT and CUDA of that JetPack. Build it on the Jetson, from the repository's
# root, with the L4T that `edgead doctor` or /etc/nv_tegra_release names:
#   docker build -f docker/jetpack7-station.Dockerfile --build-arg L4T=r38.4 -t edgead-jetpack7-station .
# There is no L4T image for JetPack 7; its packages come from NVIDIA's Jetson repository. Its CUDA repository for Arm
# servers would bring the newest TensorRT instead, which JetPack 7.0 to 7.2 do not run.
FROM ubuntu:24.04

ARG L4T=r38.4
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/nvidia-jetson.asc
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && chmod 644 /usr/share/keyrings/nvidia-jetson.asc \
 && echo "deb [signed-by=/usr/share/keyrings/nvidia-jetson.asc] https://repo.download.nvidia.com/jetson/common $L4T main" \
    > /etc/apt/sources.list.d/nvidia-jetson.list \
 && apt-get update \
 && apt-get install -y python3-libnvinfer python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /edgead
RUN python3 -m venv --system-site-packages .venv
ENV PATH=/edgead/.venv/bin:$PATH
COPY . .
RUN pip install -c constraints.txt '.[stations]' onnx 'cuda-bindings>=13,<14'
# A station has no torch: it would be gigabytes that nothing uses.
RUN python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

# The group video may open a Jetson's GPU. Ubuntu's image has a user 1000 of its own.
RUN userdel --remove ubuntu \
 && useradd --create-home --uid 1000 --groups video station
USER station
WORKDIR /station
VOLUME /station
ENTRYPOINT ["edgead"]
CMD ["stream", "station.yaml"]
