#!/bin/sh
# Runs the reliability tests in full: 300 kills, 200 builds by eight kilns at once, full disks, damaged stores.
# Results go to docs/reliability.md. Takes about a quarter of an hour; KILN_TEST_KILLS and KILN_TEST_BUILDS change that.
set -eu
cd "$(dirname "$0")/.."
. scripts/setup.sh

need_packages cc:gcc busybox:busybox-static newuidmap:uidmap git:git
need_rust
cargo build --release --locked -p kiln
: "${KILN_TEST_BIN:=$(realpath "${CARGO_TARGET_DIR:-target}")/release/kiln}" "${KILN_TEST_KILLS:=300}" "${KILN_TEST_BUILDS:=200}"
export KILN_TEST_BIN KILN_TEST_KILLS KILN_TEST_BUILDS
exec cargo test --release --locked -p kiln --test it -- --nocapture --test-threads=1 reliability:: disk:: damage:: "$@"
