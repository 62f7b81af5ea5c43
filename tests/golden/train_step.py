#!/usr/bin/env python3
"""One policy-gradient step by PyTorch: advantages, loss and gradients, for TEA, GRPO and PPO's clipped ratio.

    python tests/golden/train_step.py     # replaces train_step.json and train_step.safetensors

The samples are random tokens under `models/llama_gqa` and its adapter. Nothing of the engine is used: the rules
are written here from their papers (TEA: arXiv 2605.10716, section 3; GRPO: arXiv 2402.03300; PPO: arXiv 1707.06347).
"""

import math

import golden_env

VERSIONS = golden_env.check_versions()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from golden_math import deviation, float64_arithmetic, gradients, token_logps  # noqa: E402
from golden_models import SPECS, generator, load_base, load_lora, to_double, trainable  # noqa: E402

SEED, SAMPLES, LONGEST = 12, 10, 9
PROMPTS = (5, 1, 23)
SETTINGS = {
    "tea": {"advantage": "tea", "loss_type": "sum", "beta": 0.02, "kl_estimator": "k3", "epsilon": None},
    "grpo": {"advantage": "grpo-z", "loss_type": "grpo", "beta": 0.0, "kl_estimator": "k3", "epsilon": None},
    "ppo": {"advantage": "grpo", "loss_type": "dr_grpo", "beta": 0.05, "kl_estimator": "k2", "epsilon": 0.2},
}


def kappa(alpha: float, n: int) -> float:
    """(E[best of n] − E[tail]) / sd(tail) of a standard normal, its tail being what lies above the 1 − alpha quantile."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    best = torch.trapezoid(x * n * density * torch.special.ndtr(x) ** (n - 1), x)
    z = -torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64))
    mean = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) / alpha
    return float((best - mean) / torch.sqrt(1 + z * mean - mean * mean))


def tea(r: torch.Tensor, alpha: float = 0.2, n: int = 128) -> torch.Tensor:
    """The tail-shaped reward's positive part less its mean; the tail is the best ceil(alpha·m) rewards."""
    k = math.ceil(alpha * len(r) - 1e-9)
    order = torch.argsort(-r, stable=True)[:k]
    top = r[order]
    q, mu, s = top.min(), top.mean(), top.std(correction=0)
    u = torch.zeros_like(r)
    u[order] = ((top - q) + kappa(alpha, n) / (2 * s) * ((top - mu) ** 2 - (q - mu) ** 2)) / alpha
    u = u.clamp_min(0)
    return u - u.mean()


def centred(r: torch.Tensor) -> torch.Tensor:
    """GRPO without scaling."""
    return r - r.mean()


def standardised(r: torch.Tensor) -> torch.Tensor:
    """GRPO with the population's standard deviation."""
    return centred(r) / (r.std(correction=0) + 1e-4)


RULES = {"tea": tea, "grpo": centred, "grpo-z": standardised}


def make_samples(vocabulary: int) -> dict:
    """Random prompts, responses of 1 to LONGEST tokens, and rewards that float32 holds."""
    rng = generator(SEED, 1)
    tokens = lambda n: torch.randint(0, vocabulary, (n,), generator=rng).tolist()  # noqa: E731
    lengths = torch.randint(1, LONGEST + 1, (len(PROMPTS), SAMPLES), generator=rng).tolist()
    return {
        "prompts": [tokens(n) for n in PROMPTS],
        "completions": [[tokens(n) for n in group] for group in lengths],
        "rewards": (torch.randn(len(PROMPTS), SAMPLES, generator=rng) * 2).tolist(),
        "max_completion_length": LONGEST,
    }


def responses(model, samples: dict) -> list[list[torch.Tensor]]:
    """Log-probabilities of every response's tokens, by prompt and sample."""
    prompts = zip(samples["prompts"], samples["completions"], strict=True)
    return [[token_logps(model, p + c)[len(p) - 1 :] for c in group] for p, group in prompts]


def step_loss(model, samples: dict, settings: dict, advantages, old, reference) -> torch.Tensor:
    """−(1/(B·m)) Σ A·ℓ·c + β·KL, ℓ the log-probability or PPO's clipped ratio, token by token."""
    total, count = 0.0, len(PROMPTS) * SAMPLES
    for group, a, olds, refs in zip(responses(model, samples), advantages, old, reference, strict=True):
        for logp, advantage, before, ref in zip(group, a, olds, refs, strict=True):
            value = -advantage * logp
            if settings["epsilon"] is not None:
                ratio = torch.exp(logp - before)
                clipped = ratio.clamp(1 - settings["epsilon"], 1 + settings["epsilon"])
                value = -torch.minimum(ratio * advantage, clipped * advantage)
            d = ref - logp
            kl = torch.exp(d) - d - 1 if settings["kl_estimator"] == "k3" else d * d / 2
            weight = {"sum": 1.0, "grpo": 1.0 / len(logp), "dr_grpo": 1.0 / LONGEST}[settings["loss_type"]]
            total = total + weight / count * (value + settings["beta"] * kl).sum()
    return total


def double(nested):
    """The same log-probabilities in float64."""
    return [[t.double() for t in group] for group in nested]


def main() -> None:
    """Makes both files."""
    golden_env.quiet_deterministic_torch()
    spec = next(s for s in SPECS if s.name == "llama_gqa")
    home = golden_env.HERE / "models" / spec.name
    load = lambda: load_lora(spec, home, home / "adapter")  # noqa: E731
    samples = make_samples(spec.config["vocab_size"])
    model = load()
    with torch.no_grad():
        reference = responses(load_base(spec, home), samples)
        rng = generator(SEED, 2)
        old = [[t + torch.randn(t.shape, generator=rng) * 0.25 for t in g] for g in responses(model, samples)]
    rewards = torch.tensor(samples["rewards"], dtype=torch.float64)
    record = samples | {"seed": SEED, "logp_old": [[t.tolist() for t in g] for g in old], "cases": {}, "versions": VERSIONS}
    tensors = {}
    for name, settings in SETTINGS.items():
        advantages = [RULES[settings["advantage"]](group) for group in rewards]
        loss = step_loss(model, samples, settings, [a.float() for a in advantages], old, reference)
        grads = gradients(trainable(model), loss)
        exact = load()
        with float64_arithmetic():
            to_double(exact)
            exact_loss = step_loss(exact, samples, settings, advantages, double(old), double(reference))
            noise = deviation(grads, gradients(trainable(exact), exact_loss))
        assert noise < 1e-4, f"{name}: float32 is {noise:.1e} off: change the seed"
        values = {"advantages": [a.tolist() for a in advantages], "loss": exact_loss.item(), "float32_noise": noise}
        record["cases"][name] = settings | values
        tensors |= {f"{name}/grad/{n}": g for n, g in grads.items()}
        print(f"{name}: loss {exact_loss.item():.6f}, float32 within {noise:.1e}")
    golden_env.write_record(golden_env.HERE / "train_step.json", record)
    save_file({n: t.contiguous() for n, t in tensors.items()}, golden_env.HERE / "train_step.safetensors")


if __name__ == "__main__":
    main()
