# make demo   train and score a LIP detector on generated images; QUICK=1 trains less and asserts AP50
# make test   run the tests
# make benchmark-eval   time the scoring beside pycocotools, and with more classes and images
# All set the environment up on first use. PYTHON picks the interpreter; TORCH the build of torch,
# which later calls keep:
#   make demo TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test benchmark-eval lint setup clean

demo: setup
	$(BIN)/python tools/demo.py $(if $(QUICK),--quick)

test: setup
	$(BIN)/python -m pytest -q

benchmark-eval: setup
	$(BIN)/python tools/benchmark_eval.py
	$(BIN)/python tools/benchmark_eval.py --shapes lvis large --repeat 1

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup:
	@$(PYTHON) tools/bootstrap.py $(VENV) $(if $(TORCH),--torch '$(TORCH)')

clean:
	rm -rf $(VENV) work_dirs build dist *.egg-info
