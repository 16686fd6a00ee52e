#!/bin/sh
# What the machine itself needs for the work of the benchmarks in builder/benches/builders: the same bytes, made, copied,
# hashed, packed and unpacked by the plainest program for it. Whole commands, seconds, the least of three.
#   scripts/floors.sh DIR    DIR: an empty directory on the file system of the stores
set -eu
dir=${1:?a directory}
cd "$dir"

least() { # least NAME COMMAND: COMMAND is run three times; `reset` may undo it
  name=$1; shift
  best=
  for _ in 1 2 3; do
    rm -rf out; mkdir out; sync
    begin=$(date +%s%N)
    "$@" >/dev/null 2>&1
    took=$(( ($(date +%s%N) - begin) / 1000000 ))
    if [ -z "$best" ] || [ "$took" -lt "$best" ]; then best=$took; fi
  done
  printf '| %s | %d.%03d |\n' "$name" $((best / 1000)) $((best % 1000))
}

mkdir -p many big
i=0
while [ $i -lt 500 ]; do
  mkdir -p many/d$i
  j=0
  while [ $j -lt 100 ]; do echo "$i $j 0123456789abcdef" >many/d$i/f$j; j=$((j + 1)); done
  i=$((i + 1))
done
openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 1073741824 >big/noise
yes 'layer image the of build step and cache file a root to mount is stage copy' | head -c 536870912 >big/text
tar -cf many.tar many
tar -cf noise.tar big/noise

echo '| floor | s |'
echo '| --- | --- |'
least '50,000 files: cp -r' cp -r many out/
least '50,000 files: read (tar to nothing)' sh -c 'tar -cf - many | cat'
least '50,000 files: tar -x' tar -xf many.tar -C out
least '50,000 files: stat (find -newer)' find many -newer many.tar
least '1 GiB: cp' cp big/noise out/
least '1 GiB: sha256' openssl dgst -sha256 big/noise
least '1 GiB: tar -x' tar -xf noise.tar -C out
least '1.5 GiB: cp' cp big/noise big/text out/
least '1.5 GiB: sha256' openssl dgst -sha256 big/noise big/text
least '1.5 GiB: gzip -1 of two files at once' sh -c 'gzip -1 -c big/noise >out/a & gzip -1 -c big/text >out/b; wait'
least '100 times fork and exec' sh -c 'i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done'
least '100 times unshare of five namespaces' sh -c 'i=0; while [ $i -lt 100 ]; do unshare -Urmpf /bin/true; i=$((i+1)); done'
