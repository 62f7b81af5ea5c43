"""One table of ratios: this program's rows against its peers'.

    python table.py --ours rollout.jsonl train.jsonl kernels.jsonl --peers vulkan.jsonl torch.jsonl burn.jsonl

Rows belong together when their tests are equal, and their variants where the peer's row has one. A ratio is a speed: ours over the peer's, above 1 where ours is
faster, whichever way the unit counts.
"""

import argparse
import sys

import rows

# (peer, a word of its backend or None, test, floor, aim): what this project holds itself to.
GOALS = [
    ("llama.cpp", "Vulkan", "pp64", 3.0, 8.0),
    ("llama.cpp", "Vulkan", "pp512", 3.0, 8.0),
    ("llama.cpp", "Vulkan", "tg32", 2.0, 5.0),
    ("PyTorch + PEFT", None, "sample 1×16×64", 0.3, 1.0),
    ("PyTorch + PEFT", None, "forward+backward 8×1×(1+128)", 0.15, 0.4),
    ("burn", None, "block forward+backward 8×128", 2.0, 5.0),
]


def speed_ratio(ours, peer):
    """Ours over the peer's speed."""
    if ours["unit"] != peer["unit"]:
        sys.exit(f"{ours['test']}: measured in {ours['unit']} here and in {peer['unit']} by {peer['peer']}")
    if ours["higher_is_better"]:
        return ours["value"] / peer["value"]
    return peer["value"] / ours["value"]


def goal(peer):
    for who, backend, test, floor, aim in GOALS:
        if who == peer["peer"] and test == peer["test"] and (backend is None or backend in peer["backend"]):
            return floor, aim
    return None


def verdict(ratio, found):
    if found is None:
        return ""
    floor, aim = found
    return "aim" if ratio >= aim else "floor" if ratio >= floor else "BELOW"


def show(ours, peers):
    """Prints the table; rows of a peer that have none of ours are named on standard error."""
    print("| work | peer | on | peer's | ours | unit | ours/peer (speed) | floor | aim | |")
    print("| --- | --- | --- | --: | --: | --- | --: | --: | --: | --- |")
    unmatched = []
    for p in peers:
        same = [o for o in ours if o["test"] == p["test"] and p["variant"] in ("", o["variant"])]
        if not same:
            unmatched.append(p)
        for o in same:
            ratio, found = speed_ratio(o, p), goal(p)
            floor, aim = found or ("", "")
            print(
                f"| {p['test']} {p['variant']} ({o['model']} {o['dtype']}) | {p['peer']} {p['dtype']} | {p['backend']} "
                f"| {p['value']:.4g} ± {p['deviation']:.2g} | {o['value']:.4g} ± {o['deviation']:.2g} | {p['unit']} "
                f"| {ratio:.2f} | {floor} | {aim} | {verdict(ratio, found)} |"
            )
    for p in unmatched:
        print(f"no row of ours for {p['peer']}: {p['test']} {p['variant']}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", required=True, help="files of `tea-wgpu bench … -o jsonl`")
    parser.add_argument("--peers", nargs="+", required=True, help="files of the peers' scripts")
    args = parser.parse_args()
    ours = [r for path in args.ours for r in rows.read(path) if not r.get("skipped")]
    peers = [r for path in args.peers for r in rows.read(path)]
    show(ours, peers)


if __name__ == "__main__":
    main()
