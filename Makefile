# make book      the book, drawn from the shipped records     RECORDS=fresh: everything computed again, quick presets
# make test      every test; those that need Chromium are skipped by name where there is none
# make chapter   UNIT=name [PRESET=quick|smoke|paper|...]: run one unit, results in runs/
# make data      the data sets that may be downloaded: Omniglot and CIFAR-100
# make bench     time and memory of a meta-iteration, next to other libraries
# make clean     removes what was built, keeps runs/

PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
PRESET ?= quick
BIN := .venv/bin
READY := .venv/.ready
# On Linux without an NVIDIA driver: the build of torch for the CPU, a tenth of the download.
CPU := $(if $(filter Linux,$(shell uname)),$(if $(shell command -v nvidia-smi),,yes))

.PHONY: book test chapter data bench clean
.DEFAULT_GOAL := book

book: $(READY)
	@$(BIN)/python book/build.py $(if $(filter fresh,$(RECORDS)),--fresh)

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/pytest

chapter: $(READY)
	@test -n "$(UNIT)" || { echo "name a unit: make chapter UNIT=few_shot_regression"; exit 2; }
	@$(BIN)/mlkit run $(UNIT) $(if $(filter-out quick,$(PRESET)),-f notebooks/presets/$(PRESET)/$(UNIT).yaml)

data: $(READY)
	@$(BIN)/mlkit data get omniglot
	@$(BIN)/mlkit data get cifar100

bench: $(READY)
	@$(BIN)/python benchmarks

clean:
	rm -rf book/_build book/units book/generated book/reproduction.md

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "expected Python 3.11 or later with venv (Debian: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(if $(CPU),$(BIN)/pip install -q --no-deps -c requirements.lock torch torchvision \
		--extra-index-url https://download.pytorch.org/whl/cpu --retries 1)
	$(BIN)/pip install -q -c requirements.lock -e ".[book,test,scale]"
	@touch $@
