# make demo    install into .venv and run the shipped recipe `quickstart`
# make test    install and run lint, type check, import rules and tests
# make install only the installation
PYTHON ?= python3
BIN := .venv/bin
STATIC := build/static

.PHONY: install demo test lint clean
.DELETE_ON_ERROR:

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade pip
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]'
	touch $@

demo: install
	$(BIN)/detpress run quickstart

# Static tools do not see the mapping of plugins/, adapters/ and recipes/ into the package; a tree of links shows it.
lint: install
	rm -rf $(STATIC)
	mkdir -p $(STATIC)/detpress
	ln -s $(CURDIR)/detpress/* $(CURDIR)/plugins $(CURDIR)/adapters $(CURDIR)/recipes $(STATIC)/detpress/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(STATIC) && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/setup.cfg -p detpress
	cd $(STATIC) && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/setup.cfg

# Where a worker dies, pytest-xdist 3.8 may wait for ever for the tests that it had: better none is started again.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --max-worker-restart 0

clean:
	rm -rf .venv build dist *.egg-info
