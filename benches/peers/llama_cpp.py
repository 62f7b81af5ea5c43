"""Prefill and decode of llama.cpp on a GGUF file, as `tea-wgpu bench rollout` measures them (pp64, pp512, tg32).

    python llama_cpp.py --model smollm2.gguf --llama-bench path/to/llama-bench --output vulkan.jsonl
    python llama_cpp.py --model smollm2.gguf --llama-bench path/to/llama-bench --cpu --output cpu.jsonl
    python llama_cpp.py --model smollm2.gguf --output binding.jsonl        # PyPI llama-cpp-python, as it was built

llama-bench is preferred: it is what llama.cpp's own numbers come from. The Vulkan build takes the device from
GGML_VK_VISIBLE_DEVICES and its driver from VK_DRIVER_FILES; with a software driver set both, or it falls back to the CPU
silently. This script refuses a run on "gpu" whose output names no Vulkan, CUDA or Metal backend.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import rows


def with_llama_bench(args):
    """Runs the llama-bench binary and reads its JSON lines."""
    command = [
        args.llama_bench, "-m", args.model, "-p", args.prefill, "-n", str(args.decode_length),
        "-r", str(args.repetitions), "-o", "jsonl", "-t", str(args.threads), "-ngl", "0" if args.cpu else "99",
    ]
    if args.cpu:
        command += ["-dev", "none"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with code {done.returncode}")
    out = []
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue
        r = json.loads(line)
        backend = r.get("backends", r.get("backend", "?"))
        if not args.cpu and not any(b in backend for b in ("Vulkan", "CUDA", "Metal", "MTL", "ROCm", "SYCL")):
            sys.exit(f"llama-bench reports the backend {backend!r}: it did not use a GPU device (see the top of this file)")
        prompt, generated = r["n_prompt"], r["n_gen"]
        if prompt and generated:
            continue
        test, variant = (f"pp{prompt}", "") if prompt else (f"tg{generated}", "batch 1")
        where = "CPU" if args.cpu else backend
        samples = r["samples_ts"]
        out.append(rows.row("llama.cpp", where, name(args), r.get("model_type", ""), test, variant, "tok/s", samples, True))
    if not out:
        sys.exit("llama-bench printed no rows; is it an old version without -o jsonl?")
    return out


def with_binding(args):
    """The same through llama-cpp-python."""
    try:
        import llama_cpp
    except ImportError:
        sys.exit("neither --llama-bench nor llama-cpp-python: pip install llama-cpp-python, or give the binary")
    gpu = llama_cpp.llama_supports_gpu_offload()
    if not args.cpu and not gpu:
        sys.exit("this build of llama-cpp-python has no GPU backend; pass --cpu, or install one that has")
    lengths = [int(p) for p in args.prefill.split(",")]
    context = max(lengths + [args.decode_length]) + 8
    model = llama_cpp.Llama(
        args.model, n_ctx=context, n_batch=max(lengths), n_ubatch=max(lengths), n_threads=args.threads,
        n_threads_batch=args.threads, n_gpu_layers=0 if args.cpu else -1, verbose=False,
    )
    vocabulary = model.n_vocab()
    where = "CPU" if args.cpu else "GPU"
    out = []

    def measure(test, variant, tokens, work):
        work()
        samples = []
        for _ in range(args.repetitions):
            begun = time.perf_counter()
            work()
            samples.append(tokens / (time.perf_counter() - begun))
        out.append(rows.row("llama.cpp", where, name(args), "", test, variant, "tok/s", samples, True))

    for length in lengths:
        prompt = [(i * 7919 + 11) % vocabulary for i in range(length)]

        def prefill(prompt=prompt):
            model.reset()
            model.eval(prompt)

        measure(f"pp{length}", "", length, prefill)

    def decode():
        model.reset()
        for i in range(args.decode_length):
            model.eval([(i * 104729 + 3) % vocabulary])

    measure(f"tg{args.decode_length}", "batch 1", args.decode_length, decode)
    return out


def name(args):
    return os.path.basename(args.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--llama-bench", help="the binary; without it llama-cpp-python is used")
    parser.add_argument("--cpu", action="store_true", help="llama.cpp's CPU backend")
    parser.add_argument("--prefill", default="64,512", help="prompt lengths")
    parser.add_argument("--decode-length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", default="-", help="JSON lines")
    args = parser.parse_args()
    rows.write(with_llama_bench(args) if args.llama_bench else with_binding(args), args.output)


if __name__ == "__main__":
    main()
