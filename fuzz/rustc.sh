#!/bin/sh
# Stands between Cargo and rustc: what this project writes is built so that libFuzzer sees which
# branches an input takes, and everything else as always.
case " $* " in
  *" --crate-name medlake_ingest "* | *" --crate-name medlake_contract "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
