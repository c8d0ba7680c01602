# make demo   from nothing to runs/demo/report.html
# make test   the test suite
# make lint   style and types
# make clean  remove what make installed and what tools cached; runs/ stays
#
# Each installs what it needs into .venv first, at the versions in constraints.txt, and again only when those change.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# Where to look for torch besides PyPI, say a build without CUDA: README.md, "Installation".
TORCH_INDEX ?=

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
          $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: install demo test lint clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/edgead demo

# One thread a process: the processes share the cores.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info edgead/_native/*.so .pytest_cache .mypy_cache .ruff_cache
	find edgead export benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt setup.py edgead/_native/area.cpp
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("edgead needs Python 3.10 or newer, and " \
	  + sys.executable + " is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[train,export,stations,openvino]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[train,export,stations,openvino,cameras,viva,genicam,mqtt,modbus,opcua,page,parquet,dev]'
	@touch $@
