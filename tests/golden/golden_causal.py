"""Golden results of one causal model: statistics, gradients, optimiser steps, KL and PPO losses, greedy tokens."""

from pathlib import Path

import torch

from golden_math import (
    EPSILON, JITTER, adamw, deviation, float64_arithmetic, gradients, kl_loss, packed_stats, ppo_loss,
    sequence_logits, split_packed, token_logps, weighted_loss,
)
from golden_models import Spec, generator, load_base, load_lora, to_double, trainable

GREEDY_TOKENS = 12
MIN_GAP = 5e-3
DECAY_TAGS = {0.0: "wd0", 0.01: "wd001"}


def make_case(spec: Spec) -> dict:
    """The batch: sequences with the first and the last id of the vocabulary in them, prompt lengths, weights."""
    rng = generator(spec.seed, 3)
    vocab = spec.config["vocab_size"]
    sequences = [torch.randint(0, vocab, (n,), generator=rng).tolist() for n in spec.lengths]
    sequences[1][0], sequences[-1][-1] = 0, vocab - 1
    return {"sequences": sequences, "prompt_lens": list(spec.prompt_lens), "weights": list(spec.weights)}


def model_part(model, case: dict) -> tuple[dict, dict, float]:
    """Statistics, gradients of every trainable tensor, and the loss."""
    stats = packed_stats(model, case["sequences"])
    loss = weighted_loss(model, case)
    return stats, gradients(trainable(model), loss), loss.item()


@torch.no_grad()
def greedy(model, prompt: list[int]) -> dict | None:
    """Twelve argmax tokens by full recomputation; None when a step is nearly a tie or the tokens are too uniform."""
    tokens, logps, gaps = list(prompt), [], []
    for _ in range(GREEDY_TOKENS):
        logits = sequence_logits(model, tokens)[-1]
        top = logits.topk(2)
        gaps.append(float(top.values[0] - top.values[1]))
        tokens.append(int(top.indices[0]))
        logps.append(float(torch.log_softmax(logits, -1)[tokens[-1]]))
    made = tokens[len(prompt) :]
    if min(gaps) < MIN_GAP or len(set(made)) < 4:
        return None
    return {"prompt": prompt, "tokens": made, "logprobs": logps, "min_gap": min(gaps)}


def greedy_cases(spec: Spec, model, purpose: int) -> list[dict]:
    """One case a prompt length, from the first random prompt without near ties."""
    rng = generator(spec.seed, purpose)
    cases = []
    for length in spec.greedy_prompts:
        for _ in range(200):
            case = greedy(model, torch.randint(0, spec.config["vocab_size"], (length,), generator=rng).tolist())
            if case:
                cases.append(case)
                break
    assert len(cases) == len(spec.greedy_prompts), "no greedy prompt without near ties: change the seed"
    return cases


def optimiser_part(spec: Spec, path: Path, adapter: Path, case: dict, jitter: float = 0.0) -> tuple[dict, dict]:
    """AdamW runs on the adapter and on all parameters with the decays the spec asks for; θ₁ only for the first adapter run."""
    runs = [("lora", decay) for decay in spec.lora_adamw]
    if spec.full_adamw is not None:
        runs.append(("full", spec.full_adamw))
    records, tensors = {}, {}
    for kind, decay in runs:
        tag = DECAY_TAGS[decay]
        model = load_lora(spec, path, adapter) if kind == "lora" else load_base(spec, path)
        record, first, last = adamw(trainable(model), lambda m=model: weighted_loss(m, case), decay, jitter)
        records[f"{kind}/adamw_{tag}"] = record
        if (kind, decay) == runs[0]:
            tensors |= {f"{kind}/adamw_{tag}/step1/{n}": t for n, t in first.items()}
        tensors |= {f"{kind}/adamw_{tag}/step10/{n}": t for n, t in last.items()}
    return records, tensors


def kl_and_ppo_part(spec: Spec, model, case: dict, logps_ref: torch.Tensor) -> tuple[dict, dict]:
    """Gradients of the KL estimators (reference: adapter off) and of the PPO-clip loss, for the LoRA tensors."""
    named = trainable(model)
    case["kl"] = {"beta": 0.02, "losses": {}}
    tensors = {}
    for kind in ("k1", "k2", "k3"):
        loss = kl_loss(model, case, logps_ref, kind)
        case["kl"]["losses"][kind] = loss.item()
        if kind != "k1":
            tensors |= {f"kl/{kind}/grad/{n}": g for n, g in gradients(named, loss).items()}
    case["ppo"] = {"epsilon": EPSILON, "advantages": [1.0, -0.8, 1.5, -1.2]}
    logps = torch.cat([token_logps(model, tokens).detach() for tokens in case["sequences"]])
    old = logps + torch.randn(logps.shape, generator=generator(spec.seed, 5)) * 0.25
    check_ppo_coverage(case, logps, old)
    loss = ppo_loss(model, case, old)
    case["ppo"]["loss"] = loss.item()
    tensors |= {"ppo/logp_old": old} | {f"ppo/grad/{n}": g for n, g in gradients(named, loss).items()}
    return case, tensors


def check_ppo_coverage(case: dict, logps: torch.Tensor, old: torch.Tensor) -> None:
    """All four (side of the clip, sign of the advantage) cases occur and no ratio sits on an edge of the clip."""
    seen = set()
    streams = zip(split_packed(case, logps), split_packed(case, old), case["prompt_lens"], case["ppo"]["advantages"], strict=True)
    for now, before, prompt_len, advantage in streams:
        for ratio in torch.exp(now - before)[prompt_len - 1 :].tolist():
            assert min(abs(ratio - 1 - EPSILON), abs(ratio - 1 + EPSILON)) > 1e-4, "a ratio sits on the clip's edge"
            side = "high" if ratio > 1 + EPSILON else "low" if ratio < 1 - EPSILON else "inside"
            seen.add((side, advantage > 0))
    assert len(seen) == 6, f"clip cases missing: {seen}"


def causal_golden(spec: Spec, path: Path, adapter: Path, is_half: bool) -> tuple[dict, dict]:
    """(JSON record, tensors) of one stored causal model."""
    case = make_case(spec)
    record, tensors, noise, losses = case, {}, {}, {}
    for kind, load in (("base", load_base), ("lora", load_lora)):
        args = (spec, path) if kind == "base" else (spec, path, adapter)
        stats, grads, loss = model_part(load(*args), case)
        exact_model = load(*args)
        with float64_arithmetic():
            exact_stats, exact_grads, _ = model_part(to_double(exact_model), case)
        assert exact_stats["logits"].dtype == torch.float64
        grad_kind = "full" if kind == "base" else "lora"
        losses[grad_kind] = loss
        # The rounded twins repeat the float32 model's adapter; its log-probabilities are enough there.
        tensors |= {f"{kind}/{n}": t for n, t in stats.items() if not (is_half and kind == "lora" and n == "logits")}
        tensors |= {f"{grad_kind}/grad/{n}": t for n, t in grads.items()}
        noise[f"{kind}/logits_max_abs"] = float((stats["logits"] - exact_stats["logits"]).abs().max())
        noise[f"{kind}/logprobs_max_abs"] = float((stats["logprobs"] - exact_stats["logprobs"]).abs().max())
        noise[f"{grad_kind}/grad_max_rel"] = deviation(grads, exact_grads)
    assert float((tensors["base/logprobs"] - tensors["lora/logprobs"]).abs().max()) > 0.1, "the adapter changes too little"
    record["losses"] = losses
    record["greedy"] = greedy_cases(spec, load_base(spec, path), 4)
    record["greedy_lora"] = greedy_cases(spec, load_lora(spec, path, adapter), 6)
    if not is_half:
        record["adamw"], steps = optimiser_part(spec, path, adapter, case)
        _, shaken = optimiser_part(spec, path, adapter, case, JITTER)
        noise["adamw_jitter_max_rel"] = deviation(steps, shaken)
        tensors |= steps
        if spec.kl_and_ppo:
            record, extra = kl_and_ppo_part(spec, load_lora(spec, path, adapter), case, tensors["base/logprobs"])
            tensors |= extra
    record["float32_noise"] = noise
    return record, tensors
