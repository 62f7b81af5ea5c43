#!/usr/bin/env python3
"""One step of policy-gradient training by PyTorch: advantages, losses, gradients and metrics of TEA, GRPO and PPO's clipped ratio.

    python tests/golden/train_step.py     # replaces train_step.json and train_step.safetensors

The samples are random tokens under `models/llama_gqa` and its adapter. Nothing of the engine is used: the rules are written here
from their papers (TEA: arXiv 2605.10716, section 3; GRPO: arXiv 2402.03300; PPO: arXiv 1707.06347). The learning rate is 0, so that
every iteration sees the same weights.
"""

import math
from fractions import Fraction

import golden_env

VERSIONS = golden_env.check_versions()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from golden_math import deviation, float64_arithmetic, gradients, sequence_logits  # noqa: E402
from golden_models import SPECS, generator, load_base, load_lora, to_double, trainable  # noqa: E402

SEED, SAMPLES, LONGEST = 12, 10, 9
PROMPTS = (5, 1, 23)
# Ratios nearer to an edge of the clip could fall on its other side by rounding.
EDGE = 1e-4
# Keys of a settings file. 1% of β moves a gradient by 4e-3, four times what the test allows.
SETTINGS = {
    "tea": {"advantage": "tea", "alpha": "2/5", "bon": 64, "loss_type": "sum", "beta": 0.5, "kl_estimator": "k3", "num_iterations": 1},
    "grpo": {"advantage": "grpo-z", "loss_type": "grpo", "beta": 0.0, "num_iterations": 1},
    "ppo": {
        "advantage": "grpo", "loss_type": "dr_grpo", "beta": 0.5, "kl_estimator": "k2", "num_iterations": 2, "epsilon": 0.2,
    },
}


def kappa(alpha: float, n: int) -> float:
    """(E[best of n] − E[tail]) / sd(tail) of a standard normal, its tail being what lies above the 1 − alpha quantile."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    best = torch.trapezoid(x * n * density * torch.special.ndtr(x) ** (n - 1), x)
    z = -torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64))
    mean = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) / alpha
    return float((best - mean) / torch.sqrt(1 + z * mean - mean * mean))


def tea(r: torch.Tensor, settings: dict) -> tuple[torch.Tensor, dict]:
    """The tail-shaped reward's positive part less its mean; the tail is the best ceil(alpha·m) rewards."""
    alpha, curve = Fraction(settings["alpha"]), kappa(float(Fraction(settings["alpha"])), settings["bon"])
    order = torch.argsort(-r, stable=True)[: math.ceil(alpha * len(r))]
    top = r[order]
    q, mu, s = top.min(), top.mean(), top.std(correction=0)
    u = torch.zeros_like(r)
    u[order] = ((top - q) + curve / (2 * s) * ((top - mu) ** 2 - (q - mu) ** 2)) / float(alpha)
    u = u.clamp_min(0)
    return u - u.mean(), {"tail/mu": float(mu), "tail/sigma": float(s), "tail/kappa": curve}


def centred(r: torch.Tensor, _: dict) -> tuple[torch.Tensor, dict]:
    """GRPO without scaling."""
    return r - r.mean(), {}


def standardised(r: torch.Tensor, _: dict) -> tuple[torch.Tensor, dict]:
    """GRPO with the population's standard deviation."""
    return (r - r.mean()) / (r.std(correction=0) + 1e-4), {}


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


def responses(model, samples: dict) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probability and entropy of the tokens of every response."""
    out = []
    for prompt, group in zip(samples["prompts"], samples["completions"], strict=True):
        for response in group:
            logp = torch.log_softmax(sequence_logits(model, prompt + response)[len(prompt) - 1 : -1], -1)
            out.append((logp[range(len(response)), response], -(logp.exp() * logp).sum(-1)))
    return out


def k3(d: torch.Tensor) -> torch.Tensor:
    """Schulman's estimator, exp(d) − d − 1."""
    return torch.expm1(d) - d


def step_loss(model, samples: dict, settings: dict, batch: list[tuple], clips: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """−(1/(B·m)) Σ A·ℓ·c + β·KL, ℓ the log-probability or PPO's clipped ratio, token by token; and one row per token (ΣT, 7).

    `batch` holds each response's advantage and its log-probabilities under the sampling policy and the reference. A row: clipped
    from below, from above, k3 to the reference and to the sampling policy, distance to the latter, entropy, distance of the ratio
    to the clip's nearest edge.
    """
    epsilon, count = settings.get("epsilon", math.inf), len(batch)
    total, rows = 0.0, []
    for (logp, entropy), (advantage, old, reference) in zip(responses(model, samples), batch, strict=True):
        ratio = torch.exp(logp - old)
        bounded = ratio.clamp(1 - epsilon, 1 + epsilon)
        value = -torch.minimum(ratio * advantage, bounded * advantage) if clips else -advantage * logp
        d = (reference - logp) * (settings["beta"] > 0)
        if settings["beta"] > 0:
            value = value + settings["beta"] * {"k2": d * d / 2, "k3": k3(d)}[settings["kl_estimator"]]
        weight = {"sum": 1.0, "grpo": 1.0 / len(logp), "dr_grpo": 1.0 / LONGEST}[settings["loss_type"]]
        total = total + weight / count * value.sum()
        low, high = (ratio < 1 - epsilon) & (advantage < 0), (ratio > 1 + epsilon) & (advantage > 0)
        edge = ((ratio - 1).abs() - epsilon).abs()
        row = [clips * low, clips * high, k3(d), k3(logp - old), (logp - old).abs(), entropy, edge]
        rows.append(torch.stack([column.to(logp.dtype) for column in row], 1).detach())
    return total, torch.cat(rows)


def metrics(losses: list[float], tokens: list[torch.Tensor], grads: dict, rewards: torch.Tensor) -> dict:
    """The step's metrics by their names: of the first iteration, but for the clipped tokens (all) and the norm (the last)."""
    means, n = tokens[0].mean(0).tolist(), len(tokens[0])
    clipped = torch.cat(tokens)[:, :2].mean(0).tolist()
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std(1, correction=0).mean().item(),
        "loss": losses[0],
        "kl": means[2],
        "entropy": means[5],
        "mismatch_kl": means[3],
        "mismatch_logp_max": tokens[0][:, 4].max().item(),
        "clip_ratio/low_mean": clipped[0],
        "clip_ratio/high_mean": clipped[1],
        "clip_ratio/region_mean": sum(clipped),
        "grad_norm": torch.cat([g.double().flatten() for g in grads.values()]).norm().item(),
        "num_tokens": n,
    }


def by_prompt(responses: list) -> list:
    """A list of responses as lists of their groups."""
    return [responses[i : i + SAMPLES] for i in range(0, len(responses), SAMPLES)]


def main() -> None:
    """Makes both files."""
    golden_env.quiet_deterministic_torch()
    spec = next(s for s in SPECS if s.name == "llama_gqa")
    home = golden_env.HERE / "models" / spec.name
    samples = make_samples(spec.config["vocab_size"])
    load = lambda: load_lora(spec, home, home / "adapter")  # noqa: E731
    base, model, exact_base, exact = load_base(spec, home), load(), load_base(spec, home), load()
    with float64_arithmetic():
        to_double(exact_base), to_double(exact)
    rewards = torch.tensor(samples["rewards"], dtype=torch.float64)
    rng = generator(SEED, 2)
    with torch.no_grad():
        reference = [logp for logp, _ in responses(base, samples)]
        old = [logp + torch.randn(logp.shape, generator=rng) * 0.25 for logp, _ in responses(model, samples)]
        with float64_arithmetic():
            exact_reference = [logp for logp, _ in responses(exact_base, samples)]
    logp_old = by_prompt([logp.tolist() for logp in old])
    record = samples | {"seed": SEED, "logp_old": logp_old, "cases": {}, "versions": VERSIONS}
    tensors = {}
    for name, settings in SETTINGS.items():
        groups = [RULES[settings["advantage"]](group, settings) for group in rewards]
        advantages = torch.cat([a for a, _ in groups])
        batch = list(zip(advantages.float(), old, reference, strict=True))
        exact_batch = list(zip(advantages, [logp.double() for logp in old], exact_reference, strict=True))
        losses, tokens, noise = [], [], 0.0
        for iteration in range(settings["num_iterations"]):
            # The first iteration is on-policy: the ratio is 1, whatever the rounding of the sampler.
            clips = iteration > 0
            grads = gradients(trainable(model), step_loss(model, samples, settings, batch, clips)[0])
            with float64_arithmetic():
                loss, rows = step_loss(exact, samples, settings, exact_batch, clips)
                exact_grads = gradients(trainable(exact), loss)
            noise = max(noise, deviation(grads, exact_grads))
            losses.append(loss.item())
            tokens.append(rows)
            tensors |= {f"{name}/{iteration}/grad/{n}": g.contiguous() for n, g in grads.items()}
        assert noise < 1e-4, f"{name}: float32 is {noise:.1e} off: change the seed"
        assert tokens[0][:, 6].min() > EDGE, f"{name}: a ratio is at the edge of the clip: change the seed"
        found = metrics(losses, tokens, exact_grads, rewards)
        found |= {key: sum(tail[key] for _, tail in groups) / len(groups) for key in groups[0][1]}
        record["cases"][name] = {
            "settings": settings, "advantages": by_prompt(advantages.tolist()), "losses": losses, "metrics": found, "float32_noise": noise,
        }
        clipped = sum(t[:, :2].sum(0) for t in tokens).int().tolist()
        assert (min(clipped) > 0) == ("epsilon" in settings), f"{name}: {clipped} tokens are clipped: change the seed"
        print(f"{name}: losses {losses}, {clipped} tokens clipped from below and above, float32 within {noise:.1e}")
    golden_env.write_record(golden_env.HERE / "train_step.json", record)
    save_file(tensors, golden_env.HERE / "train_step.safetensors")


if __name__ == "__main__":
    main()
