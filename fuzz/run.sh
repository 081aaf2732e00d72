#!/usr/bin/env bash
# Runs every fuzz target for so many seconds each: `fuzz/run.sh SECONDS [TARGET…]`. Inputs that take
# new branches are kept in the build folder, where the next run goes on; one that ends a target is kept
# there, too, and its path is printed.
#
# No nightly compiler is needed: what counts the branches is a pass of LLVM that the stable one has.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?seconds for each target}
shift
target=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz
export CARGO_TARGET_DIR=$target RUSTC_WRAPPER=$PWD/rustc.sh
# The same versions as in the workspace.
cp ../Cargo.lock Cargo.lock
cargo build
fuzz=$target/debug/medlake-fuzz
names=("$@")
[ "${#names[@]}" -gt 0 ] || mapfile -t names < <("$fuzz")
found=0
for name in "${names[@]}"; do
  mkdir -p "$target/found/$name"
  echo "== $name"
  # An input that takes ten seconds or a gigabyte is a failure, like a panic.
  FUZZ_TARGET=$name FUZZ_INPUTS=$target/inputs/$name "$fuzz" "$target/inputs/$name" \
    -artifact_prefix="$target/found/$name/" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -max_len=16384 -print_final_stats=1 || found=1
done
exit "$found"
