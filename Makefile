# `make demo` and `make test` need Python 3.10 to 3.13 and nothing else; what is installed stays.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FACTS := pyproject.toml setup.py constraints.txt
JOBS ?= 2 # tests that run at a time, each on one core; many start processes of their own

.PHONY: demo test lint install clean

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(strip $(JOBS)) --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed

# Some systems split venv's own pip off; then the pip of $(PYTHON) puts one in.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }
	touch $@

$(VENV)/.installed: $(VENV)/.made $(FACTS)
	$(BIN)/python -m pip install -c constraints.txt -e ".[demo]"
	touch $@

# bitsandbytes goes to a folder of its own, where its tests find it: diffusers would import it at every
# start. Where there is no wheel of it, they are skipped.
$(VENV)/.installed-test: $(VENV)/.made $(FACTS) Makefile
	$(BIN)/python -m pip install -c constraints.txt -e ".[demo,test]"
	-$(BIN)/python -m pip install --no-deps --upgrade --target $(VENV)/8bit bitsandbytes==0.50.2
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build *.egg-info
