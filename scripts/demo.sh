#!/bin/sh
# Builds kiln, then a base image and examples/hello with it, and runs the result.
set -eu
cd "$(dirname "$0")/.."
. scripts/setup.sh

need_packages cc:gcc busybox:busybox-static newuidmap:uidmap git:git
need_rust
cargo build --release --locked
kiln=${CARGO_TARGET_DIR:-target}/release/kiln
out=${KILN_DEMO_DIR:-${CARGO_TARGET_DIR:-target}/demo}
mkdir -p "$out/context"
out=$(cd "$out" && pwd)
KILN_ROOT=${KILN_ROOT:-$out/store}
export KILN_ROOT

# The static busybox of the host becomes the base image.
busybox=$(PATH=$PATH:/usr/sbin:/sbin command -v busybox)
cp "$busybox" "$out/context/busybox"
"$kiln" build -f examples/base/Buildfile -o "type=oci,dest=$out/base,tar=false" "$out/context"

"$kiln" build --build-arg GREETING=hello --build-context "base=oci-layout://$out/base" \
    -t hello -o "type=oci,dest=$out/hello,tar=false" examples/hello

"$kiln" run "oci-layout:$out/hello"
say "the image is the OCI layout $out/hello"
