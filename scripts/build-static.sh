#!/usr/bin/env bash
# Builds a kiln that needs nothing but a kernel: one static file, for machines and images without a C library.
# Usage: scripts/build-static.sh [TARGET]      TARGET: x86_64-unknown-linux-musl (this machine's) or another musl target
# The file is $CARGO_TARGET_DIR/TARGET/release/kiln; its path is the last line on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

machine=$(uname -m)
target=${1:-$machine-unknown-linux-musl}
case $target in
    *-linux-musl*) ;;
    *) say "a static kiln needs a musl target such as $machine-unknown-linux-musl, not $target"; exit 2 ;;
esac

need_rust
if [ "${target%%-*}" = "$machine" ]; then
    need_packages cc:gcc musl-gcc:musl-tools
    compiler=musl-gcc
else
    # Nothing of musl is packaged for another processor, so the compiler is named by whoever has one.
    compiler=${KILN_CROSS_CC:-${target%%-*}-linux-musl-gcc}
    if ! command -v "$compiler" > /dev/null; then
        say "$target needs a C compiler for it: put $compiler into PATH or name one in KILN_CROSS_CC"
        say "(musl.cc and musl-cross-make have such compilers)"
        exit 1
    fi
fi
if ! rustc --print target-libdir --target "$target" 2> /dev/null | xargs -r test -d; then
    if ! command -v rustup > /dev/null; then
        say "Rust's standard library for $target is missing; install it the way that Rust was installed"
        exit 1
    fi
    say "installing Rust's standard library for $target"
    rustup target add "$target"
fi

# For what C there is: SQLite, zstd, libdeflate, liblzma, ring.
export "CC_$(echo "$target" | tr - _)=$compiler"
name=$(echo "$target" | tr a-z- A-Z_)
# Rust brings musl's objects for its own linking; musl-gcc as linker would make a file that asks for musl's loader.
[ "$compiler" = musl-gcc ] || export "CARGO_TARGET_${name}_LINKER=$compiler"
export "CARGO_TARGET_${name}_RUSTFLAGS=-C target-feature=+crt-static"
cargo build --release --locked --package kiln --target "$target"

file=${CARGO_TARGET_DIR:-target}/$target/release/kiln
# A static file has no interpreter to load it.
if readelf -l "$file" 2> /dev/null | grep -q INTERP; then
    say "$file is not static"
    exit 1
fi
say "$(du -h "$file" | cut -f1) $file"
echo "$file"
