#!/usr/bin/env bash
# The commit hook: runs .pre-commit-config.yaml without a terminal and is silent when all is well.
#
# `make install-dev` puts it in place of the hook that pre-commit writes. The next line is by what
# pre-commit knows its own hook, so that installing twice does not chain it to itself:
# ID: 138fd403232d2ddd5efb44317e38bf03
here=$(cd "$(dirname "$0")" && pwd)
python=$(git rev-parse --show-toplevel)/.venv/bin/python
if [ ! -x "$python" ]; then
  echo "commit hook: there is no .venv here; run: make install-dev" >&2
  exit 1
fi
arguments=(hook-impl --config=.pre-commit-config.yaml --hook-type=pre-commit --hook-dir "$here")
if ! said=$("$python" -m pre_commit "${arguments[@]}" -- "$@" 2>&1 </dev/null); then
  printf '%s\n' "$said" >&2
  exit 1
fi
