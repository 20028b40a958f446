#!/bin/bash
# RUSTC_WORKSPACE_WRAPPER of `make lint`: clippy over our own crates, on the dependencies `cargo build` has made.
# `cargo clippy` is a `cargo check`, which shares nothing with a build and goes through every dependency again (a sixth of a
# cold `make test`). So cargo is told to build, and this wrapper takes the code generation out of what it asks for.
# A build script is run: it is built as it is.
[[ " $* " != *" --crate-name build_script_"* ]] || exec "$@"
args=() out="" name="" extra=""
while (($#)); do
    case $1 in
        --emit=*) args+=("--emit=dep-info,metadata") ;;
        # Our own crates have metadata only; those of others are there whole.
        soma*_*=*/libsoma_*.rlib | *=*/libsoma_*.rlib) args+=("${1%.rlib}.rmeta") ;;
        *) args+=("$1") ;;
    esac
    case $1 in
        --out-dir) out=$2 ;;
        --crate-name) name=$2 ;;
        extra-filename=*) extra=${1#extra-filename=} ;;
    esac
    shift
done
CLIPPY_ARGS="-Dwarnings__CLIPPY_HACKERY__" clippy-driver "${args[@]}" || exit
# What cargo expects to find, or it would lint again each time.
[[ -z $out ]] || touch "$out/lib$name$extra.rlib" "$out/$name$extra"
