"""Rows of measurements, in the form of `tea-wgpu bench … -o jsonl`: one JSON object a line."""

import datetime
import json
import statistics
import sys


def row(peer, backend, model, dtype, test, variant, unit, samples, higher_is_better):
    """One measurement; `samples` in `unit`."""
    samples = [float(s) for s in samples]
    if not samples:
        raise ValueError(f"{peer} {test}: no samples")
    return {
        "peer": peer,
        "backend": backend,
        "model": model,
        "dtype": dtype,
        "test": test,
        "variant": variant,
        "value": statistics.median(samples),
        "deviation": statistics.stdev(samples) if len(samples) > 1 else 0.0,
        "unit": unit,
        "higher_is_better": higher_is_better,
        "samples": samples,
        "test_time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def write(rows, path):
    """Writes rows as JSON lines to a file, or to standard output for "-"."""
    text = "".join(json.dumps(r) + "\n" for r in rows)
    if path == "-":
        sys.stdout.write(text)
        return
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def read(path):
    """Reads JSON lines; a wrong line is named."""
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                sys.exit(f"{path}:{number}: not a JSON object ({error})")
    return rows
