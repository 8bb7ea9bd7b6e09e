#!/usr/bin/env bash
# Build CalculiX with external behaviours, which Debian's package lacks, from Debian's source; print the program.
#
#     FEMOPS_CCX=$(tests/codes/build_calculix.sh PREFIX) pytest tests/test_codes.py
#
# The program is PREFIX/bin/ccx; nothing is done if it is there. Needs Debian 12 or its like and, where packages are
# missing, the rights to install them. Sources of packages are taken from a list of its own.
set -euo pipefail
prefix=$(realpath -m "${1:?usage: build_calculix.sh PREFIX}")
version=2.20-1
exec 3>&1 1>&2
if [ ! -x "$prefix/bin/ccx" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    packages=(dpkg-dev gcc gfortran make libspooles-dev libarpack2-dev liblapack-dev libblas-dev)
    if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
        root=(); [ "$(id -u)" = 0 ] || root=(sudo)
        "${root[@]}" apt-get update
        "${root[@]}" apt-get install --yes --no-install-recommends "${packages[@]}"
    fi
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb-src [signed-by=$keys] http://deb.debian.org/debian bookworm main" > "$work/sources.list"
    mkdir -p "$work/lists/partial"
    own=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists"
        -o Dir::Cache="$work" -o APT::Sandbox::User="$(id -un)")
    apt-get "${own[@]}" update
    (cd "$work" && apt-get "${own[@]}" source calculix-ccx=$version)
    cd "$work"/calculix-ccx-*/ccx_*/src
    defines="-DARCH=Linux -DSPOOLES -DARPACK -DMATRIXSTORAGE -DUSE_MT=1 -DCALCULIX_EXTERNAL_BEHAVIOURS_SUPPORT"
    make -j"$(nproc)" ccx_${version%-*} LDFLAGS=-ldl \
        CFLAGS="-O2 -w -I/usr/include/spooles $defines" FFLAGS="-O2 -w -fallow-argument-mismatch"
    install -D ccx_${version%-*} "$prefix/bin/ccx"
fi
echo "$prefix/bin/ccx" >&3
