#!/bin/sh
# What a RUN costs: a chain of 100 RUNs that do nothing, beside as many `runc run` and `bwrap` of the same files, in turn.
# Usage: scripts/bench-run-cost.sh [KILN]     ROUNDS=5 STEPS=100 change how often; as root and as an ordinary user.
# Prints rows of a Markdown table: milliseconds for each command, median and minimum of all rounds.
set -eu
cd "$(dirname "$0")/.."
. scripts/setup.sh

kiln=${1:-${CARGO_TARGET_DIR:-target}/release/kiln}
case $kiln in /*) ;; *) kiln=$PWD/$kiln ;; esac
rounds=${ROUNDS:-5} steps=${STEPS:-100}
out=$(mktemp -d)
KILN_ROOT=$out/store
export KILN_ROOT
# Files of subordinate ids are removed as root of their namespace.
trap 'rm -rf "$out" 2> /dev/null || unshare --map-root-user --map-auto rm -rf "$out"' EXIT
PATH=$PATH:/usr/sbin:/sbin

mkdir "$out/context" "$out/bundle" "$out/times"
cp "$(command -v busybox)" "$out/context/busybox"
"$kiln" build -q -f examples/base/Buildfile -o "type=oci,dest=$out/base,tar=false" "$out/context" > /dev/null
"$kiln" build -q -f examples/base/Buildfile -o "type=local,dest=$out/bundle/rootfs" "$out/context" > /dev/null
mkdir -p "$out/bundle/rootfs/proc" "$out/bundle/rootfs/dev" "$out/bundle/rootfs/sys"
# Equal steps on an equal base would be one step, so each has an argument of its own.
{ echo "FROM base"; i=0; while [ "$i" -lt "$steps" ]; do echo "RUN true $i"; i=$((i + 1)); done; } > "$out/Chain"

chain() { "$kiln" build -q --no-cache -f "$out/Chain" --build-context "base=oci-layout://$out/base" \
    -o type=cacheonly "$@" "$out/context" > /dev/null; }
with_kiln() { chain; }
with_kiln_none() { chain --network=none; }
with_runc() {
    i=0
    while [ "$i" -lt "$steps" ]; do
        runc --root "$out/runc" run --bundle "$out/bundle" "bench-$$-$i" < /dev/null
        i=$((i + 1))
    done
}
with_bwrap() {
    i=0
    while [ "$i" -lt "$steps" ]; do
        bwrap --unshare-all --die-with-parent --bind "$out/bundle/rootfs" / --proc /proc --dev /dev /bin/true
        i=$((i + 1))
    done
}

candidates="kiln kiln_none"
if command -v runc > /dev/null; then
    rootless=
    [ "$(id -u)" = 0 ] || rootless=--rootless
    # shellcheck disable=SC2086
    (cd "$out/bundle" && runc spec $rootless)
    sed -i -e 's/"terminal": true/"terminal": false/' -e 's/"sh"/"\/bin\/true"/' "$out/bundle/config.json"
    candidates="$candidates runc"
fi
command -v bwrap > /dev/null && candidates="$candidates bwrap"

for candidate in $candidates; do
    "with_$candidate" || { say "$candidate does not work here"; candidates=$(echo "$candidates" | sed "s/\b$candidate\b\$//;s/\b$candidate //"); }
done
round=0
while [ "$round" -lt "$rounds" ]; do
    for candidate in $candidates; do
        start=$(date +%s%N)
        "with_$candidate"
        end=$(date +%s%N)
        echo $(((end - start) / 1000 / steps)) >> "$out/times/$candidate"
    done
    round=$((round + 1))
done

name() {
    case $1 in
        kiln) echo "kiln, a chain of $steps RUNs" ;;
        kiln_none) echo 'kiln, the same with `--network=none`' ;;
        runc) echo '`runc run`' ;;
        bwrap) echo '`bwrap --unshare-all`' ;;
    esac
}
say "$(uname -r), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg), user $(id -un), $rounds rounds"
echo "| | median, ms | minimum, ms |"
echo "| --- | --- | --- |"
for candidate in $candidates; do
    sort -n "$out/times/$candidate" | awk -v name="$(name "$candidate")" '
        { time[NR] = $1 / 1000 }
        END { printf "| %s | %.1f | %.1f |\n", name, time[int((NR + 1) / 2)], time[1] }'
done
