"""What both golden scripts share: pinned versions and a deterministic, single-threaded float32 PyTorch."""

import json
import os
import re
from importlib.metadata import version
from pathlib import Path

# Set before torch is imported anywhere: the order of a CPU reduction depends on the thread count.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).resolve().parent


def check_versions() -> dict[str, str]:
    """Compares the installed packages with requirements.txt; any difference ends the run."""
    found = {}
    for line in (HERE / "requirements.txt").read_text().splitlines():
        match = re.fullmatch(r"([\w-]+)==(\S+)", line.strip())
        if not match:
            continue
        name, want = match.groups()
        # A local build tag such as 2.15.0+cpu is the same release.
        have = version(name).split("+")[0]
        if have != want:
            raise SystemExit(f"{name} {have} is installed, {want} is pinned: pip install -r {HERE / 'requirements.txt'}")
        found[name] = have
    return found


def quiet_deterministic_torch() -> None:
    """One thread, deterministic algorithms, full-precision float32, and no progress bars."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def write_record(path: Path, record: dict) -> None:
    """JSON, one top-level key a line: readable in a diff, short on disk."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
