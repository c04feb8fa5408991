# make demo · make test · make bench · make lint · make clean. Each sets up what it needs: .venv on the first call.
#
# PYTHON=python3.12 chooses the interpreter of a new .venv.

PYTHON ?= python3
VENV := .venv
REQUIREMENTS := requirements.txt requirements-no-deps.txt
# The stamp's name holds a checksum of the requirements: a later call with the same ones is instant and offline.
INSTALLED := $(VENV)/installed-$(shell cat $(REQUIREMENTS) | cksum | cut -d ' ' -f 1)
TEST_INSTALLED := $(VENV)/test-installed-$(shell cksum < requirements-test.txt | cut -d ' ' -f 1)
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test bench lint clean distclean

demo: $(INSTALLED)
	@PYTHON=$(VENV)/bin/python scripts/demo.sh

test: $(INSTALLED) $(TEST_INSTALLED)
	@$(VENV)/bin/python -m pytest --durations=20

bench: $(INSTALLED)
	@set -e; for file in $(wildcard benchmarks/*.py); do \
		echo "== $$file"; PYTHONPATH=. $(VENV)/bin/python $$file; \
	done

lint: $(INSTALLED)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

# torch comes first and alone: the version pinned, in the build that the machine's index offers.
$(INSTALLED): $(REQUIREMENTS)
	@$(PYTHON) scripts/preflight.py --install
	@echo "Installing into $(VENV) (once, some minutes)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -r requirements-no-deps.txt
	@rm -f $(VENV)/installed-*
	@touch $@

# A torch for CUDA has brought its own.
$(TEST_INSTALLED): requirements-test.txt | $(INSTALLED)
	@$(VENV)/bin/python -c "import triton" 2>/dev/null || $(PIP) -r requirements-test.txt
	@touch $@

# Runs and what tools leave behind; the cache of fetched and prepared data stays, and so does data/.
clean:
	rm -rf runs lightning_logs build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Back to a fresh clone, but for data/.
distclean: clean
	rm -rf cache $(VENV)
