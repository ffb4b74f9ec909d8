# Every target sets up what it needs. A bare Debian machine with python3 and
# make is enough to start from.

PYTHON ?= python3
VENV ?= .venv
# For `make demo` and `make test`: more arguments, as in `make test ARGS=-x`.
ARGS ?=
# For `make soak` and `make simulate`: how long (10 and 90 if nobody says).
MINUTES ?= 10
# For `make simulate`: how many histories, in how many processes, which page to update.
SCHEDULES ?= 100000
JOBS ?= 2
DOCUMENT ?=
# For `make soak`, `make replay` and `make trees`: which choices, as they were printed.
SEED ?=
# For `make trees`: how many walks.
EXAMPLES ?= 100
# For `make crash` and `make simulate`: what the names of cases must have (and JOBS).
ONLY ?=

bin := $(VENV)/bin
# Newer than pyproject.toml: what that file asks for is installed.
stamp := $(VENV)/.installed
# The same for what builds the site.
docs-stamp := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help crash soak setup demo test every-case guard lint diagrams simulate replay clean \
    docs docs-serve screenshot trees mutations powercut startup man debian-venv debian-qemu \
    debian-test debian-diagrams

help: ## say what the targets do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(stamp) debian-qemu ## make .venv and install what Backfold needs

demo: $(stamp) debian-qemu ## the whole story on a real QEMU
	$(bin)/backfold demo $(ARGS)

test: $(stamp) debian-test ## run the tests
	$(bin)/python -m pytest --numprocesses logical --dist worksteal $(ARGS)

every-case: $(stamp) debian-test ## as test, with every case of the tests that sample theirs
	BACKFOLD_EVERY_CASE=1 $(bin)/python -m pytest --numprocesses logical --dist worksteal $(ARGS)

guard: $(stamp) debian-test ## kill the engine at every point of a hold, and change the world
	BACKFOLD_EVERY_CASE=1 BACKFOLD_GUARD_SECONDS=1 $(bin)/python -m pytest -q -n 0 \
	    --durations=0 --durations-min=60 tests/crash/test_guard.py \
	    tests/real/test_changed_world.py $(ARGS)

soak: $(stamp) debian-test ## kill deletions at random for MINUTES=...; SEED=... repeats the choices
	PYTHONPATH=tests $(bin)/python -m soak.run --minutes $(MINUTES) \
	    $(if $(SEED),--seed $(SEED)) $(ARGS)

# WITHOUT=all (or some names) proves the method: flushes are left out, and missed.
powercut: $(stamp) debian-test ## cut the power anywhere in recorded runs; WITHOUT=all to prove it
	PYTHONPATH=tests WITHOUT='$(WITHOUT)' $(bin)/python -m power.powercut $(ARGS)

crash: $(stamp) debian-test ## kill at every moment, recover, read back (ONLY=, JOBS=)
	PYTHONPATH=tests $(bin)/python -m crash.matrix --jobs $(JOBS) \
	    --only '$(ONLY)' --results build/crash.jsonl $(ARGS)

trees: $(stamp) debian-test ## walk at random through trees of snapshots (EXAMPLES=, SEED=)
	EXAMPLES='$(EXAMPLES)' SEED='$(SEED)' $(bin)/python -m pytest -q -n 0 --timeout 0 \
	    --show-capture no tests/real/test_random_trees.py \
	    tests/simulator/test_trees.py $(ARGS)

lint: $(stamp) ## check style, types and what is generated in docs/
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/python -m backfold.engine.diagram --check docs/state-diagrams
	$(bin)/python tools/errors_page.py --check
	$(bin)/python -m backfold.engine.event_docs --check docs/reference/events.md
	$(bin)/python -m backfold.engine.journal_docs --check docs/reference/journal.md
	$(bin)/python -m backfold.engine.cli_docs --check docs/reference/cli.md
	$(bin)/python -m backfold.engine.json_docs --check docs/reference/json.md

mutations: $(stamp) debian-test ## take one safeguard away at a time; print which tests fail
	PYTHONPATH=tests $(bin)/python -m mutations.run $(ARGS)

man: $(stamp) ## write the man pages into build/man
	$(bin)/python -m backfold.engine.man_pages build/man

startup: $(stamp) ## measure how soon the command line answers
	$(bin)/python tools/startup.py

diagrams: $(stamp) debian-diagrams ## write docs/state-diagrams and the pages made from the code
	$(bin)/python -m backfold.engine.diagram docs/state-diagrams
	$(bin)/python -m backfold.engine.event_docs docs/reference/events.md
	$(bin)/python -m backfold.engine.journal_docs docs/reference/journal.md
	$(bin)/python -m backfold.engine.cli_docs docs/reference/cli.md
	$(bin)/python -m backfold.engine.json_docs docs/reference/json.md
	$(bin)/python tools/errors_page.py

.PHONY: recording debian-recording
recording: $(stamp) debian-recording ## record docs/assets/backfold.cast and its picture anew
	$(bin)/python tools/recording.py docs/assets

screenshot: $(stamp) debian-test ## take the pictures of docs/report.md anew, from a real run
	PYTHONPATH=tests $(bin)/python -m browser.screenshot docs/assets

docs: $(docs-stamp) ## build the site of docs/ into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict

docs-serve: $(docs-stamp) ## show the site on http://127.0.0.1:8000, and follow changes
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs serve

simulate: $(stamp) ## explore simulated histories: SCHEDULES=, MINUTES=, JOBS=, ONLY=
	PYTHONPATH=tests $(bin)/python -m simulator --schedules $(SCHEDULES) \
	    --minutes $(if $(filter file,$(origin MINUTES)),90,$(MINUTES)) --jobs $(JOBS) \
	    --only '$(ONLY)' \
	    $(if $(DOCUMENT),--document $(DOCUMENT))

replay: $(stamp) ## run one simulated history again: SEED=...
	@PYTHONPATH=tests $(bin)/python -m simulator --replay '$(SEED)'

clean: ## remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache \
	    .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

debian-venv:
	@PYTHON='$(PYTHON)' tools/debian-packages venv

debian-qemu:
	@tools/debian-packages qemu-system-x86_64 qemu-img

debian-test:
	@tools/debian-packages qemu-system-x86_64 qemu-img qemu-io nasm cc systemd-analyze \
	    strace losetup mkfs.ext4 zsh fish groff sqlite3 dot chromium chromedriver

debian-recording:
	@tools/debian-packages qemu-system-x86_64 qemu-img asciinema unshare

debian-diagrams:
	@tools/debian-packages dot

# pip 25.1 is the first that knows --group; Debian's own is older.
$(stamp): pyproject.toml | debian-venv
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(bin)/python -m pip install --quiet --editable . --group dev
	@touch $@

$(docs-stamp): $(stamp)
	$(bin)/python -m pip install --quiet --group docs
	@touch $@
