# A station that runs a bundle with ONNX Runtime on a CPU. Build it from the repository's root:
#   docker build -f docker/cpu-station.Dockerfile -t edgead-cpu-station .
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1
WORKDIR /edgead
COPY . .
RUN pip install -c constraints.txt '.[stations,page]'
# A station has no torch: it would be gigabytes that nothing uses.
RUN python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

RUN useradd --create-home station
USER station
WORKDIR /station
VOLUME /station
ENTRYPOINT ["edgead"]
CMD ["stream", "station.yaml"]
