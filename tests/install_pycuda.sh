#!/usr/bin/env bash
# Build pycuda into a Python environment, on a machine that need have neither a GPU nor a CUDA toolkit, so that the tests
# of edgead/runtime/cuda run over it. For tests only: it is compiled without optimisation and linked against the stand-in
# of the driver. Where a GPU is used, install it with: pip install '.[pycuda]'
#
#   tests/install_pycuda.sh [PYTHON]     PYTHON: of the environment, .venv/bin/python unless named; needs g++
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(realpath -s "${1:-.venv/bin/python}")
version=2026.1
headers=12.9.79 # of CUDA; the names that pycuda links against depend on it

if "$python" -c "import importlib.metadata as m; raise SystemExit(m.version('pycuda') != '$version')" 2>/dev/null; then
  echo "pycuda $version is there"
  exit
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# cuda.h and cudaProfiler.h, out of NVIDIA's wheels; nothing of them is installed.
"$python" -m pip download -q --no-deps --only-binary=:all: -d wheels \
  "nvidia-cuda-runtime-cu12==$headers" "nvidia-cuda-profiler-api-cu12==$headers"
for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" toolkit; done
includes=$(find toolkit -name cuda.h -o -name cudaProfiler.h | xargs -n1 dirname | sort -u | sed "s|^|$folder/|" | paste -sd,)

gcc -std=gnu11 -shared -fPIC -Wl,-soname,libcuda.so.1 "$tests/fake_cuda.c" -o libcuda.so -ldl

# Curand needs a whole toolkit, and edgead draws no random numbers on the GPU.
"$python" -m pip download -q --no-deps --no-binary pycuda "pycuda==$version"
tar xf "pycuda-$version.tar.gz"
cd "pycuda-$version"
"$python" configure.py --cuda-root=/nowhere --cuda-inc-dir="$includes" --no-cuda-enable-curand \
  --cudadrv-lib-dir="$folder" --cxxflags=-O0
nice "$python" -m pip install -q .

cd "$folder"
ln -s libcuda.so libcuda.so.1
LD_LIBRARY_PATH=$folder "$python" -c "import pycuda.driver as d; d.init(); print('pycuda', '$version', 'sees', d.Device(0).name())"
