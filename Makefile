# The commands of the course. `make` lists the targets.
PYTHON ?= python3
COURSE = .venv/bin/python -m course

# Keep bytecode, because tests start hundreds of programs.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
TARGETS := help model test lint docs figures bench lock mends progress doctor engine engine-down images smoke audit clean
.PHONY: $(TARGETS)

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/%/NN/' | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/%.done: requirements/%.txt requirements/installer.txt course/install.py
	@$(PYTHON) course/install.py $* && touch $@

lesson-%: .venv/lessons.done ## run a lesson's page: every command, every output (KEEP=1, STEP=1, MODEL=real)
	@$(COURSE) lesson $*

versus-%: .venv/lessons.done ## a naive server and the lesson's side by side, counted live (lesson 03)
	@$(COURSE) versus $*

exercise-%: .venv/lessons.done ## get a broken copy of the lesson to fix (a number, or an exercise's name)
	@$(COURSE) exercise $*

check-%: .venv/dev.done ## test your fix
	@$(COURSE) check $*

hint-%: .venv/lessons.done ## the next of three hints
	@$(COURSE) hint $*

solution-%: .venv/lessons.done ## show what was broken, as a difference
	@$(COURSE) solution $*

mends: .venv/dev.done ## test every exercise: its fault, its wrong fixes and its right fixes (hours; ONLY=01 or ONLY=01-torn-stream)
	@$(COURSE) mends $(ONLY)

progress: .venv/lessons.done ## the exercises, and which you have solved
	@$(COURSE) progress

model: .venv/lessons.done ## start the offline model on port 9000, for your own programs
	@$(COURSE) model

doctor: .venv/lessons.done ## show which engines this machine has, and which lessons it can run
	@$(COURSE) doctor

engine: .venv/lessons.done ## set up all engines, or one: make engine docker (as root on Debian; else it says how)
	@$(COURSE) engine $(NAMES)

# Words after `engine` are its arguments, unless they are targets or have a dash, as lesson-01 has.
ifeq ($(firstword $(MAKECMDGOALS)),engine)
NAMES := $(foreach goal,$(filter-out $(TARGETS),$(MAKECMDGOALS)),$(if $(findstring -,$(goal)),,$(goal)))
.PHONY: $(NAMES)
$(NAMES): engine ; @:
endif

engine-down: .venv/lessons.done ## stop what `make engine` started
	@$(COURSE) engine-down

images: .venv/lessons.done ## build the images of lessons 05 and 06
	@$(COURSE) images

smoke: .venv/lessons.done images ## test each image of the research agent, in containers
	@$(COURSE) smoke

audit: .venv/lessons.done ## the same test for your own agent: make audit TARGET=image-or-url (ROUTE=/ask, FIELD=question)
	@$(COURSE) audit $(or $(TARGET),$(error Name an image or a URL: make audit TARGET=your-image:latest))

# In CI every engine is set up first, and a missing engine is a failure. The run ends after 20 failures: when an engine
# breaks, hundreds of tests would wait until their time is up. A worker that crashes is not replaced: the new one would
# crash in the same test, and xdist would never come to an end.
test: PYTEST = .venv/bin/pytest $(if $(CI),--maxfail=20)
test: $(if $(CI),engine) lint ## run every test (those whose engine is missing are skipped)
	@$(PYTEST) -n auto --max-worker-restart=0 --dist loadscope --no-loadscope-reorder -m "not serial"
	@$(PYTEST) -m serial

lint: .venv/dev.done ## check style, types, scripts, pages and figures
	@$(COURSE) lint

docs: .venv/dev.done ## update the listings and tables in the pages
	@$(COURSE) docs

figures: .venv/dev.done ## draw the charts from their records
	@$(COURSE) figures

bench: .venv/dev.done ## measure everything again on this machine (minutes)
	@$(COURSE) bench

lock: .venv/dev.done ## write the lock files again from pyproject.toml
	@$(COURSE) lock

clean: ## remove what set-up, engines and tests made, here and in your caches (not your workspace)
	@[ ! -e .venv/lessons.done ] || $(COURSE) clean
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis .benchmarks
	@find . \( -name __pycache__ -o -name .mypy_cache \) -type d -prune -exec rm -rf {} +
