"""Golden results of one reward model: scores, Bradley-Terry gradients, optimiser steps."""

from pathlib import Path

import torch

from golden_math import JITTER, adamw, deviation, float64_arithmetic, gradients
from golden_models import Spec, generator, load_base, load_lora, to_double, trainable


def make_case(spec: Spec) -> dict:
    """Four sequences in two (chosen, rejected) pairs, and extra ones for the pooling rule only.

    The pairs hold the pad id at most at their end. torch gives the pad id's embedding row no gradient (`padding_idx`), so a
    pad id before the pooled token would make the full gradient depend on that.
    """
    rng, pad, vocab = generator(spec.seed, 3), spec.config["pad_token_id"], spec.config["vocab_size"]

    def draw(length: int) -> list[int]:
        ids = torch.randint(0, vocab, (length,), generator=rng).tolist()
        return [t if t != pad else (pad + 1) % vocab for t in ids]

    sequences = [draw(n) for n in spec.lengths]
    sequences[1][-2:] = [pad, pad]
    extra = [draw(1), draw(4) + [pad] + draw(3), draw(5) + [pad] + draw(1) + [pad], [pad, pad, pad]]
    return {"pad_token_id": pad, "sequences": sequences, "extra_sequences": extra, "pairs": [[0, 1], [2, 3]]}


def score(model, tokens: list[int]) -> torch.Tensor:
    """The scalar score of one unpadded sequence."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, 0]


def padded_scores(model, sequences: list[list[int]], pad: int) -> torch.Tensor:
    """The scores of one right-padded batch."""
    width = max(map(len, sequences))
    ids = torch.tensor([s + [pad] * (width - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]


def pooled_index(tokens: list[int], pad: int) -> int:
    """transformers' rule: the last token whose id is not pad; 0 when every id is pad."""
    return max((i for i, t in enumerate(tokens) if t != pad), default=0)


def bradley_terry(model, case: dict) -> torch.Tensor:
    """Mean over the pairs of −log σ(s_chosen − s_rejected)."""
    scores = [score(model, tokens) for tokens in case["sequences"]]
    margins = torch.stack([scores[chosen] - scores[rejected] for chosen, rejected in case["pairs"]])
    return -torch.nn.functional.logsigmoid(margins).mean()


def model_part(model, case: dict) -> tuple[dict, dict, float]:
    """Scores of all sequences, gradients of every trainable tensor, and the loss."""
    every = case["sequences"] + case["extra_sequences"]
    with torch.no_grad():
        scores = torch.stack([score(model, tokens) for tokens in every])
        padded = padded_scores(model, every, case["pad_token_id"])
        # Causal, so the score of the prefix that ends at the pooled token is the score.
        prefix = torch.stack([score(model, t[: pooled_index(t, case["pad_token_id"]) + 1]) for t in every])
    assert float((scores - padded).abs().max()) < 1e-5, "padding changes a score"
    assert float((scores - prefix).abs().max()) < 1e-5, "transformers pools elsewhere"
    loss = bradley_terry(model, case)
    return {"scores": scores, "scores_padded": padded}, gradients(trainable(model), loss), loss.item()


def score_golden(spec: Spec, path: Path, adapter: Path) -> tuple[dict, dict]:
    """(JSON record, tensors) of one stored reward model."""
    case = make_case(spec)
    every = case["sequences"] + case["extra_sequences"]
    record = case | {"pooled_index": [pooled_index(t, case["pad_token_id"]) for t in every], "losses": {}, "adamw": {}}
    tensors, noise = {}, {}
    for kind, load in (("base", load_base), ("lora", load_lora)):
        args = (spec, path) if kind == "base" else (spec, path, adapter)
        grad_kind = "full" if kind == "base" else "lora"
        stats, grads, record["losses"][grad_kind] = model_part(load(*args), case)
        exact = load(*args)
        with float64_arithmetic():
            exact_stats, exact_grads, _ = model_part(to_double(exact), case)
        tensors |= {f"{kind}/{n}": t for n, t in stats.items()} | {f"{grad_kind}/grad/{n}": t for n, t in grads.items()}
        noise[f"{kind}/scores_max_abs"] = float((stats["scores"] - exact_stats["scores"]).abs().max())
        noise[f"{grad_kind}/grad_max_rel"] = deviation(grads, exact_grads)
        if kind == "lora":
            found, record["adamw"]["lora/adamw_wd001"] = optimiser_part(load(*args), case)
            shaken, _ = optimiser_part(load(*args), case, JITTER)
            noise["adamw_jitter_max_rel"] = deviation(found, shaken)
            tensors |= found
    record["float32_noise"] = noise
    return record, tensors


def optimiser_part(model, case: dict, jitter: float = 0.0) -> tuple[dict, dict]:
    """AdamW with decay 0.01 on the adapter and its score head: (tensors, losses and norms)."""
    record, first, last = adamw(trainable(model), lambda: bradley_terry(model, case), 0.01, jitter)
    tensors = {f"lora/adamw_wd001/step1/{n}": t for n, t in first.items()}
    return tensors | {f"lora/adamw_wd001/step10/{n}": t for n, t in last.items()}, record
