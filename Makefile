# Everything a person or the CI does here. Needs Python >= 3.11, make and git; the rest comes into .venv.
PYTHON ?= python3
BIN := .venv/bin
VIDEOS ?=

# One thread a process: the networks of the tests are small, and the processes many.
test test-all: export OMP_NUM_THREADS = 1

.PHONY: demo dev test test-all check format bench clean

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## score two libraries end to end, or your own: make demo VIDEOS=/some/folder
	$(BIN)/cpllm demo $(if $(VIDEOS),'$(VIDEOS)')

dev: .venv/installed  ## the Dagster UI on this machine, with an embedded S3 and two small libraries
	$(BIN)/cpllm dev $(if $(VIDEOS),'$(VIDEOS)')

test: .venv/installed  ## the fast tests, two files at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: .venv/installed  ## every test that this machine can run
	$(BIN)/python -m pytest -m 'not gpu'

check: .venv/installed  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: export OMP_NUM_THREADS = 1
bench: .venv/installed  ## figures of speed, memory and ranking; the last ones take long on a busy machine
	for name in decode_speed model_speed platform_speed night ranking_simulation library_scale features_append library_report driver_limit; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; \
	done

clean:
	rm -rf .venv work
