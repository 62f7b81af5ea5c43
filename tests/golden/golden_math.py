"""The numbers taken from a model: packed statistics, losses, gradients, AdamW runs, and how noisy float32 leaves them."""

from contextlib import contextmanager

import torch

ADAMW_STEPS = 10
JITTER = 1e-5
CLIP_NORM = 1.0
# The full run takes the LoRA rate too: at 1e-4 a norm weight near 1 moves 1e-3 in ten steps, of which its float32 rounding and that of
# 1 − lr·decay are already 4e-4; at 1e-3 they are 4e-5.
LEARNING_RATE = 1e-3
EPSILON = 0.2

Tensors = dict[str, torch.Tensor]


@contextmanager
def float64_arithmetic():
    """Runs transformers' explicit float32 casts (norms, softmax, rope tables) in float64, to measure float32's own error."""
    names = {"float32": torch.float32, "float": torch.float, "tensor_float": torch.Tensor.float}
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = names["float32"], names["float"], names["tensor_float"]


def sequence_logits(model, tokens: list[int]) -> torch.Tensor:
    """Logits (T, V) of one unpadded sequence."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def token_logps(model, tokens: list[int]) -> torch.Tensor:
    """(T − 1): entry t is log π(tokens[t + 1] | tokens[..=t])."""
    logits = sequence_logits(model, tokens)[:-1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]


@torch.no_grad()
def packed_stats(model, sequences: list[list[int]]) -> Tensors:
    """Logits (ΣT, V), logsumexp and entropy (ΣT), logprobs (Σ(T − 1)) of the sequences, one after another."""
    logits = [sequence_logits(model, tokens) for tokens in sequences]
    packed = torch.cat(logits)
    logp = torch.log_softmax(packed, -1)
    return {
        "logits": packed,
        "logsumexp": torch.logsumexp(packed, -1),
        "entropy": -(logp.exp() * logp).sum(-1),
        "logprobs": torch.cat([token_logps(model, tokens) for tokens in sequences]),
    }


def weighted_loss(model, case: dict) -> torch.Tensor:
    """−Σᵢ weightᵢ Σ_{t ≥ prompt_lenᵢ} log π(y_t | y_<t)."""
    total = 0.0
    for tokens, prompt_len, weight in zip(case["sequences"], case["prompt_lens"], case["weights"], strict=True):
        total = total - weight * token_logps(model, tokens)[prompt_len - 1 :].sum()
    return total


def split_packed(case: dict, packed: torch.Tensor) -> list[torch.Tensor]:
    """Cuts a packed (Σ(T − 1)) stream into its sequences."""
    return list(packed.split([len(tokens) - 1 for tokens in case["sequences"]]))


def kl_loss(model, case: dict, logps_ref: torch.Tensor, kind: str) -> torch.Tensor:
    """β Σ over completion tokens of k(d), d = log π_ref − log π: k1 = −d, k2 = d²/2, k3 = exp(d) − d − 1."""
    total = 0.0
    for tokens, prompt_len, ref in zip(case["sequences"], case["prompt_lens"], split_packed(case, logps_ref), strict=True):
        d = (ref - token_logps(model, tokens))[prompt_len - 1 :]
        total = total + {"k1": -d, "k2": d * d / 2, "k3": torch.exp(d) - d - 1}[kind].sum()
    return case["kl"]["beta"] * total


def ppo_loss(model, case: dict, logps_old: torch.Tensor) -> torch.Tensor:
    """−(1/n) Σᵢ Σ_{t ≥ prompt_lenᵢ} min(ρ Aᵢ, clip(ρ, 1 − ε, 1 + ε) Aᵢ), ρ = exp(log π − log π_old), n all completion tokens."""
    total, count = 0.0, 0
    streams = zip(case["sequences"], case["prompt_lens"], case["ppo"]["advantages"], split_packed(case, logps_old), strict=True)
    for tokens, prompt_len, advantage, old in streams:
        ratio = torch.exp(token_logps(model, tokens) - old)[prompt_len - 1 :]
        clipped = ratio.clamp(1 - EPSILON, 1 + EPSILON)
        total = total - torch.minimum(ratio * advantage, clipped * advantage).sum()
        count += ratio.numel()
    return total / count


def gradients(named: Tensors, loss: torch.Tensor) -> Tensors:
    """The gradient of every named parameter; one that the loss does not reach is an error."""
    grads = torch.autograd.grad(loss, list(named.values()))
    return {name: grad.detach().clone() for name, grad in zip(named, grads, strict=True)}


def adamw(named: Tensors, loss_fn, weight_decay: float, jitter: float = 0.0) -> tuple[dict, Tensors, Tensors]:
    """Ten clipped AdamW steps on the same batch: (losses and norms before clipping, θ₁ − θ₀, θ₁₀ − θ₀).

    `jitter` adds noise of that size times the tensor's RMS to each gradient: what an engine with that gradient error would reach.
    """
    start = {name: p.detach().clone().double() for name, p in named.items()}
    optimiser = torch.optim.AdamW(
        list(named.values()), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, foreach=False
    )
    rng = torch.Generator().manual_seed(9)
    losses, norms, first = [], [], {}
    for step in range(ADAMW_STEPS):
        optimiser.zero_grad(set_to_none=True)
        loss = loss_fn()
        loss.backward()
        for p in named.values() if jitter else ():
            # Exact zeros (embedding rows of absent tokens) are exact in any engine.
            noise = torch.randn(p.grad.shape, generator=rng) * (p.grad != 0)
            p.grad += jitter * p.grad.square().mean().sqrt() * noise
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), CLIP_NORM, foreach=False)))
        losses.append(loss.item())
        optimiser.step()
        if step == 0:
            first = deltas(named, start)
    record = {"lr": LEARNING_RATE, "weight_decay": weight_decay, "losses": losses, "grad_norms": norms}
    return record, first, deltas(named, start)


def deltas(named: Tensors, start: Tensors) -> Tensors:
    """θ − θ₀, subtracted in float64."""
    return {name: (p.detach().double() - start[name]).float() for name, p in named.items()}


def deviation(found: Tensors, exact: Tensors) -> float:
    """The largest relative L2 distance of any tensor from its float64 twin."""
    worst = 0.0
    for name, value in found.items():
        distance = (value.double() - exact[name].double()).norm() / exact[name].double().norm().clamp_min(1e-300)
        worst = max(worst, float(distance))
    return worst
