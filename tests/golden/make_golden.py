#!/usr/bin/env python3
"""Makes the random tiny models and their PyTorch golden results.

    pip install -r tests/golden/requirements.txt
    python tests/golden/make_golden.py            # rewrites tests/golden/models
    python tests/golden/make_golden.py --check    # makes them elsewhere and compares with what is committed

README.md beside this file says what each file holds.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import golden_env

VERSIONS = golden_env.check_versions()

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from golden_causal import causal_golden  # noqa: E402
from golden_models import LORA_ALPHA, LORA_RANK, SPECS, Spec, dir_name, write_adapter, write_model  # noqa: E402
from golden_score import score_golden  # noqa: E402

# A case must not be more delicate than the tolerances an engine is held to: float32 against float64 stays under a tenth of 1e-4
# (logits) and of 1e-3 (gradients), and gradients 1e-5 off move θ₁₀ − θ₀ by less than 6e-4, where 1e-3 is allowed. AdamW divides by |g|, so one
# element whose gradient happens to be nearly 0 can break that: then change the model's seed.
NOISE_LIMITS = {
    "logits_max_abs": 1e-5,
    "logprobs_max_abs": 1e-5,
    "scores_max_abs": 1e-5,
    "grad_max_rel": 1e-5,
    "adamw_jitter_max_rel": 6e-4,
}


def make(spec: Spec, root: Path) -> None:
    """Writes every directory of one spec."""
    write_model(spec, root)
    home = root / spec.name
    write_adapter(spec, home)
    for dtype in ("float32", *spec.halves):
        path = root / dir_name(spec, dtype)
        if spec.score:
            record, tensors = score_golden(spec, path, home / "adapter")
        else:
            record, tensors = causal_golden(spec, path, home / "adapter", is_half=dtype != "float32")
        for name, value in record["float32_noise"].items():
            limit = NOISE_LIMITS[name.split("/")[-1]]
            assert value <= limit, f"{path.name}: {name} is {value:.1e}, over {limit:.0e}: change the seed"
        adapter = "adapter" if dtype == "float32" else f"../{spec.name}/adapter"
        head = {"kind": "score" if spec.score else "causal", "dtype": dtype, "adapter": adapter}
        lora = {"lora": {"r": LORA_RANK, "lora_alpha": LORA_ALPHA}}
        golden_env.write_record(path / "golden.json", head | lora | record | {"seed": spec.seed, "versions": VERSIONS})
        save_file({n: t.detach().contiguous().clone() for n, t in tensors.items()}, path / "golden.safetensors")
        print(f"{path.name}: {len(tensors)} tensors, noise {({k: f'{v:.1e}' for k, v in record['float32_noise'].items()})}")
        for name, run in record.get("adamw", {}).items():
            print(f"  {name}: norms {[round(x, 3) for x in run['grad_norms']]}")


def close(found, wanted) -> bool:
    """Equal, with floating-point numbers within 1e-5 (another CPU may round a sum differently)."""
    if isinstance(wanted, dict):
        # The noise itself is rounding: its size is judged when it is made.
        return found.keys() == wanted.keys() and all(k == "float32_noise" or close(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        return abs(found - wanted) <= 1e-5 + 1e-5 * abs(wanted)
    return found == wanted


def same_file(found: Path, wanted: Path) -> bool:
    """Byte equality, or numeric closeness for safetensors and JSON."""
    if found.read_bytes() == wanted.read_bytes():
        return True
    if wanted.suffix == ".json":
        return close(json.loads(found.read_text()), json.loads(wanted.read_text()))
    if wanted.suffix != ".safetensors":
        return False
    a, b = load_file(found), load_file(wanted)
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and (a[n] - b[n]).double().norm() <= 2e-4 * b[n].double().norm()
        for n in b
    )


def check(found: Path, wanted: Path) -> None:
    """Compares two trees file by file; a difference ends the run with the names."""
    files = {p.relative_to(found) for p in found.rglob("*") if p.is_file()}
    others = {p.relative_to(wanted) for p in wanted.rglob("*") if p.is_file()}
    bad = sorted(str(p) for p in files ^ others)
    bad += sorted(str(p) for p in files & others if not same_file(found / p, wanted / p))
    identical = sum((found / p).read_bytes() == (wanted / p).read_bytes() for p in files & others)
    if bad:
        raise SystemExit("differs from the committed files: " + ", ".join(bad))
    print(f"{len(files)} files agree, {identical} of them byte for byte")


def main() -> None:
    """Parses the flags and makes or checks the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of replacing them")
    args = parser.parse_args()
    golden_env.quiet_deterministic_torch()
    target = golden_env.HERE / "models"
    with tempfile.TemporaryDirectory() as scratch:
        for spec in SPECS:
            torch.manual_seed(spec.seed)
            make(spec, Path(scratch))
        if args.check:
            check(Path(scratch), target)
            return
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(scratch, target)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main()
