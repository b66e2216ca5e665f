#!/usr/bin/env bash
# Runs the Python script of this name with the interpreter that PYTHON names.
python=${PYTHON:-python}
command -v "$python" > /dev/null ||
  { echo "error: there is no $python here: activate an environment, or name one in PYTHON" >&2; exit 2; }
exec "$python" "${BASH_SOURCE[0]%.sh}.py" "$@"
