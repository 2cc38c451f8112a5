# make run     upscale a photo on every engine        make run PHOTO=mine.jpg
# make test    every test                             make check   ruff and mypy
# make test-pi  the aarch64 wheels on an emulated Raspberry Pi 4 and 5 (fetches about 250 MB once)
# make test-devices  GPUs and NPUs in software and in simulators (fetches about 240 MB once)
PYTHON ?= python3
WORKERS ?= 2  # processes that `make test` runs files of tests in
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH ?= torch  # "torch --index-url URL" takes the build of another index, such as PyTorch's own for CPUs
FOLDERS := runtimes exporters quantization zoo benchmarks demos

.PHONY: run test test-pi test-devices ratios check format clean

run: $(VENV)/.run
	@$(BIN)/python -m edgekit.demos.upscale_photo $(if $(PHOTO),"$(PHOTO)")

test: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Debian's arm64 Python, qemu and aarch64 wheels lie in the user's cache afterwards; RECORD=1 writes docs/raspberry-pi.json anew.
test-pi: $(VENV)/.dev
	EDGEKIT_PI=1 $(if $(RECORD),EDGEKIT_PI_RECORD=1) $(BIN)/pytest tests/pi $(ARGS)

# Mesa's software Vulkan and environments with other engines lie in the user's cache afterwards.
test-devices: $(VENV)/.dev
	EDGEKIT_DEVICES=1 $(BIN)/pytest tests/devices $(ARGS)

ratios: $(VENV)/.dev
	$(BIN)/python -m edgekit.benchmarks.regression -o out/ratios.json

check: $(VENV)/.dev .typetree/edgekit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.typetree $(BIN)/mypy -p edgekit

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .typetree build *.egg-info out

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the runtime set (no PyTorch) into $(VENV)"
	@$(INSTALL) -e '.[demo]'
	@touch $@

# PyTorch first and alone: a bare `torch` of another package's choosing takes several GB of CUDA packages.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the full set (PyTorch, converters, test tools) into $(VENV)"
	@$(INSTALL) $(TORCH)
	@$(INSTALL) -e '.[all,dev]'
	@touch $@

# mypy does not follow an editable install's mapping of edgekit to sdk/: links show it the package's shape.
.typetree/edgekit: $(wildcard sdk/*)
	rm -rf $@
	mkdir -p $@
	ln -s $(abspath sdk)/* $@
	ln -s $(foreach folder,$(FOLDERS),$(abspath $(folder))) $@
