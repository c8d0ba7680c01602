# A workstation: trains, exports, measures. Build it from the repository's root:
#   docker build -f docker/workstation.Dockerfile -t edgead-workstation .
# torch with CUDA comes from PyPI; for a machine without a GPU add
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1
WORKDIR /edgead
COPY . .
RUN make install TORCH_INDEX=$TORCH_INDEX

ENV PATH=/edgead/.venv/bin:$PATH
VOLUME /edgead/runs
ENTRYPOINT ["edgead"]
CMD ["demo"]
