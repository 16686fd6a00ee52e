#!/bin/sh
# Installs what the tests need and runs all of them.
set -eu
cd "$(dirname "$0")/.."
. scripts/setup.sh

need_packages cc:gcc busybox:busybox-static newuidmap:uidmap git:git
need_rust
exec cargo test --workspace --locked "$@"
