#!/bin/sh
# Measures a rebuild in which nothing changed: 25 steps in 5 stages, contexts of 5,000 and of 50,000 files, whole
# processes, kiln and buildah in turn. Then one changed file. Usage: scripts/bench-rebuild.sh KILN [DIR]
set -eu
kiln=$(realpath "$1")
# buildah makes an image name of the path, so it has no capital letters.
dir="$(realpath "${2:-/var/tmp}")/kiln-bench-$$"
mkdir "$dir"
trap 'rm -rf "$dir"' EXIT
export KILN_ROOT="$dir/store"

# A base image of this machine's static busybox.
mkdir -p "$dir/root/bin"
cp "$(command -v busybox)" "$dir/root/bin/busybox"
for name in sh cat sort ls echo; do ln -s busybox "$dir/root/bin/$name"; done
printf 'FROM scratch\nCOPY . /\n' > "$dir/Base"
"$kiln" build -q -f "$dir/Base" -o "type=oci,tar=false,dest=$dir/base" "$dir/root" > "$dir/id"

project() { # DIRECTORY FILES
    mkdir -p "$1/src"
    awk -v n="$2" -v root="$1/src" 'BEGIN {
        for (i = 0; i < n; i++) {
            if (i % 100 == 0) { d = sprintf("%s/d%04d", root, i / 100); system("mkdir " d) }
            f = sprintf("%s/file-%06d", d, i); for (l = 0; l < 8; l++) print "content of file " i > f; close(f)
        }
    }'
    {
        echo "ARG BASE=base"
        for stage in 0 1 2 3; do
            echo "FROM \${BASE} AS s$stage"
            echo "WORKDIR /w"
            echo "COPY src/d000$stage part"
            echo "RUN cat part/* > all"
            echo "RUN sort all > sorted"
        done
        echo "FROM \${BASE}"
        echo "WORKDIR /app"
        echo "COPY . ."
        for stage in 0 1 2 3; do echo "COPY --from=s$stage /w/sorted /out/$stage"; done
        echo "RUN ls src > /list"
        echo "RUN echo one > /one"
        echo "RUN echo two > /two"
    } > "$1/Dockerfile"
    echo Dockerfile > "$1/.dockerignore"
}

run_kiln() { "$kiln" build -q -t bench --build-context "base=oci-layout://$dir/base" "$1" > /dev/null; }
buildah="buildah --root $dir/buildah --runroot $dir/buildah-run"
run_buildah() { $buildah bud -q --layers --isolation chroot --build-arg BASE=localhost/base -t bench "$1" > /dev/null 2>&1; }

ms() { # COMMAND...: wall time of one run in hundredths of a millisecond
    begin=$(date +%s%N); "$@"; end=$(date +%s%N); echo $(((end - begin) / 10000))
}
summary() { # FILE: median, least and most
    sort -n "$1" | awk '{ t[NR] = $1 / 100 } END { printf "median %.1f ms (%.1f to %.1f, %d runs)\n", t[int((NR + 1) / 2)], t[1], t[NR], NR }'
}

with_buildah=false
if command -v buildah > /dev/null; then
    with_buildah=true
    id=$($buildah pull -q "oci:$dir/base" 2> "$dir/pull") || { cat "$dir/pull"; exit 1; }
    $buildah tag "$id" localhost/base
fi

for files in 5000 50000; do
    project "$dir/c$files" $files
    # Files that changed within the last two seconds are not remembered.
    sleep 3
    echo "== $files files"
    echo "kiln first build: $(ms run_kiln "$dir/c$files" | awk '{ print $1 / 100 }') ms"
    if $with_buildah; then
        echo "buildah first build: $(ms run_buildah "$dir/c$files" | awk '{ print $1 / 100 }') ms"
    fi
    rm -f "$dir/kiln.ms" "$dir/buildah.ms"
    for turn in 1 2 3 4 5; do
        for again in 1 2 3 4 5; do ms run_kiln "$dir/c$files" >> "$dir/kiln.ms"; done
        if $with_buildah; then ms run_buildah "$dir/c$files" >> "$dir/buildah.ms"; fi
    done
    echo "kiln no-op: $(summary "$dir/kiln.ms")"
    if $with_buildah; then echo "buildah no-op: $(summary "$dir/buildah.ms")"; fi
    echo changed >> "$dir/c$files/src/d0007/file-000777"
    sleep 3
    if command -v strace > /dev/null; then
        strace -f -e trace=open,openat,openat2 -o "$dir/trace" "$kiln" build -q -t bench \
            --build-context "base=oci-layout://$dir/base" "$dir/c$files" > /dev/null
        # The thread that copies opens its first source before its first copy.
        copier=$(awk '/"file-.*O_CREAT/ { print $1; exit }' "$dir/trace")
        awk -v copier="$copier" '/"file-.*O_CREAT/ { exit } /"file-/ && $1 != copier { split($0, part, "\""); print part[2] }' \
            "$dir/trace" | sort -u | awk 'END { print "files read to find the change of one: " NR }'
        "$kiln" explain | grep -m 1 changed
    fi
done
