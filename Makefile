# Needs Python 3.11 and pip only. PYTHON=... names another interpreter to build the environment with.
PYTHON ?= python3
.PHONY: demo test check clean

.venv/.built: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/.built       # a tour on a small task, three minutes on two cores with bfloat16, six without
	PYTHON=.venv/bin/python scripts/demo.sh

test: .venv/.built       # all tests but the slow ones, four minutes on two slow cores
	.venv/bin/python -m pytest -n 2 -m "not slow"

check: .venv/.built      # what CI runs: ruff and all tests, about a quarter of an hour
	bash .ci/run

clean:
	rm -rf .venv demo
