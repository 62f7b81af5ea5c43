"""Everything that docs/performance.md holds this program to, in one run: ours and each peer right after one another, one table of ratios.

    python floors.py --tea ../../target/release/tea-wgpu --model smollm2.gguf --output run \\
        --llama "node node_llama_cpp.mjs" --torch "python torch_peft.py" --burn burn/target/release/burn-peer

peers.sh sets the peers up and calls this.

A peer without a command is named on standard error and left out, and what an earlier run wrote for it is removed. --runner goes before every command that uses the adapter (a script that selects a driver). Rows are kept in
the --output directory, one file a command; with --only some are measured again and the table is made from all that are there, if they
are of the same program, model, runner and number of repetitions (settings.json).
"""

import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import rows
import table

# Measurements, in order: pairs stand together.
STEPS = ("rollout", "llama", "sample", "torch-sample", "train", "torch-train", "block", "burn", "gemm", "e2e")


def through(runner, command):
    """The command behind the runner, its program by its whole path: a dynamic loader does not search PATH."""
    program = shutil.which(command[0])
    if program is None:
        sys.exit(f"{command[0]}: no such program")
    return [*runner, program, *command[1:]]


def commands(args):
    """What runs for each step; a peer's is None where it is not given."""
    tea = [*through(args.runner, [args.tea]), "bench"]
    count = str(args.repetitions)
    file = lambda name: str(args.output / f"{name}.jsonl")
    peer = lambda command, name, *more: (
        [*command, "--repetitions", count, *more, "--output", file(name)] if command else None
    )
    one = ["--num-generations", "1", "--max-completion-length", "1"]
    short = ["--prefill", "64", "--decode", "1", "--decode-length", "1"]
    llama = through(args.runner, args.llama) if args.llama else None
    return {
        "rollout": [*tea, "rollout", "--model", args.model, *one, "-r", count, "-o", "jsonl"],
        "llama": peer(llama, "llama", "--model", args.model),
        "sample": [*tea, "rollout", "--model", args.model, *short, "-r", count, "-o", "jsonl"],
        "torch-sample": peer(args.torch, "torch-sample", "--only", "sample"),
        "train": [*tea, "train", "--no-checkpointing", "-r", count, "-o", "jsonl"],
        "torch-train": peer(args.torch, "torch-train", "--only", "train"),
        "block": [*tea, "train", "--block", "-r", count, "-o", "jsonl"],
        "burn": through(args.runner, args.burn) if args.burn else None,
        "gemm": [*tea, "kernels", "gemm", "f32", "-r", count, "-o", "jsonl"],
        "e2e": [*tea, "e2e", "-r", str(max(1, args.repetitions // 2)), "-o", "jsonl"],
    }


def keep_settings(args):
    """Refuses a directory whose rows were measured with other settings: a table must not mix them."""
    path = args.output / "settings.json"
    wanted = {"tea": args.tea, "model": args.model, "runner": args.runner, "repetitions": args.repetitions}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else wanted
    other = [f"{key} {kept.get(key)!r}, now {value!r}" for key, value in wanted.items() if kept.get(key) != value]
    if other:
        sys.exit(f"{path}: these rows were measured with {'; '.join(other)}; give another --output, or the same settings")
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def measure(name, command, output, runs=1):
    """Runs one command as often as `runs` says; its rows are on standard output or in a file that it writes itself."""
    path, begun = output / f"{name}.jsonl", time.monotonic()
    print(f"{name}: {shlex.join(map(str, command))}", file=sys.stderr, flush=True)
    writes_itself = "--output" in command
    found = []
    for _ in range(runs):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{name}: ended with status {done.returncode}")
        found.append(done.stdout)
    if not writes_itself:
        path.write_text("".join(found), encoding="utf-8")
    print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def read(output, name):
    path = output / f"{name}.jsonl"
    return [r for r in rows.read(path) if not r.get("skipped")] if path.exists() else []


def gemm(output):
    """For each variant of the product in f32 the run of median share; coop-N are products of f16 operands, drawn against another ceiling."""
    variants = {}
    for r in read(output, "gemm"):
        if not r["variant"].startswith("coop-"):
            variants.setdefault(r["variant"], []).append(r)
    middle = lambda runs: sorted(runs, key=lambda r: r["% of roofline"])[len(runs) // 2]
    return [middle(runs) for runs in variants.values()]


def own(output):
    """(what, value, unit, floor, aim, whether more is better) of the rows that have no peer."""
    found = []
    shares = {r["variant"]: r["% of roofline"] for r in gemm(output) if "square" in r["test"]}
    if shares:
        best = max(shares, key=shares.get)
        found.append((f"GEMM 1024³ f32 ({best}), of `bench ceiling`'s multiply-adds", shares[best], "%", 40, 80, True))
    for r in read(output, "rollout"):
        if " over pp" in r["test"]:
            found.append((r["test"], r["value"], "×", 0.6, 0.9, True))
    rules = {r["variant"]: r["% of step"] for r in read(output, "e2e") if r["test"].startswith("advantages")}
    if rules:
        worst = max(rules, key=rules.get)
        found.append((f"advantages of 10,000 groups of 64, of a step (slowest: {worst})", rules[worst], "%", 1, "", False))
    for name in ("train", "e2e"):
        for r in read(output, name):
            if "after the first" in r["test"]:
                found.append((f"{r['test']} (bench {name})", r["value"], "", 0, "", False))
            if r["test"] == "peak over formula":
                found.append((f"{r['test']} (bench {name})", r["value"], "×", 1.10, 1.03, False))
    made = [r[key] for name in ("rollout", "sample") for r in read(output, name) for key in ("allocations", "pipelines") if key in r]
    if made:
        found.append(("allocations and pipelines after the first round (bench rollout)", max(made), "", 0, "", False))
    return found


def verdict(value, floor, aim, more):
    beyond = lambda limit: value >= limit if more else value <= limit
    if aim != "" and beyond(aim):
        return "aim"
    return "floor" if beyond(floor) else "BELOW"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tea", required=True, help="the program")
    parser.add_argument("--model", required=True, help="SmolLM2-135M as a Q4_1 GGUF file")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="directory for the rows")
    parser.add_argument("--runner", type=shlex.split, default=[], help="goes before commands that use the adapter")
    parser.add_argument("--llama", type=shlex.split, help="command of node_llama_cpp.mjs or llama_cpp.py")
    parser.add_argument("--torch", type=shlex.split, help="command of torch_peft.py")
    parser.add_argument("--burn", type=shlex.split, help="command of burn-peer")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", default=",".join(STEPS), help=f"of {', '.join(STEPS)}; none: only the table")
    args = parser.parse_args()
    wanted = [name for name in args.only.split(",") if name and name != "none"]
    unknown = set(wanted) - set(STEPS)
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: not one of {', '.join(STEPS)}")
    args.output.mkdir(parents=True, exist_ok=True)
    keep_settings(args)
    todo = commands(args)
    for name in STEPS:
        if name in wanted and todo[name] is None:
            print(f"{name}: no command given, left out", file=sys.stderr)
            (args.output / f"{name}.jsonl").unlink(missing_ok=True)
        elif name in wanted:
            # A product and its ceiling stand seconds apart, each a run of its own: a machine whose speed drifts would have one of the two.
            measure(name, todo[name], args.output, args.repetitions if name == "gemm" else 1)
    # A rollout's short runs are there for their sampling row alone; of the variants of a product the fastest counts.
    ours = [r for name in ("rollout", "train", "block") for r in read(args.output, name) if not r["test"].startswith("sample")]
    ours += sorted(gemm(args.output), key=lambda r: r["value"])[:1]
    ours += [r for r in read(args.output, "sample") if r["test"].startswith("sample")]
    theirs = [r for name in ("llama", "torch-sample", "torch-train", "burn") for r in read(args.output, name)]
    table.show(ours, theirs)
    print("\n| work | ours | floor | aim | |\n| --- | --: | --: | --: | --- |")
    for what, value, unit, floor, aim, more in own(args.output):
        print(f"| {what} | {value:.4g} {unit} | {floor} | {aim} | {verdict(value, floor, aim, more)} |")


if __name__ == "__main__":
    main()
