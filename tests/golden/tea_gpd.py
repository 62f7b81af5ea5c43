"""Golden cases of TEA-GPD, written from docs/tea-gpd.md alone: L-moments as means over pairs and triples, kappa_L
through gamma functions at 25 digits, psi as the mean over pairs of leave-one-out integrals.

    python tea_gpd.py            # writes tea_gpd.json beside this file; needs mpmath 1.3
"""

import itertools
import json
import math
import random
from fractions import Fraction
from functools import cache
from pathlib import Path

import mpmath as mp

mp.mp.dps = 25


@cache
def gaussian_skewness(alpha: Fraction):
    """L-skewness of the normal law's upper tail: integrals of F(1 - F) and F(1 - F)(2F - 1) over the tail."""
    a = mp.mpf(alpha.numerator) / alpha.denominator
    z = mp.sqrt(2) * mp.erfinv(1 - 2 * a)
    above = lambda y: mp.ncdf(-y) / a
    points = [z, z + 1, z + 2, z + 4, z + 8, z + 16]
    second = mp.quad(lambda y: above(y) * (1 - above(y)), points)
    third = mp.quad(lambda y: above(y) * (1 - above(y)) * (1 - 2 * above(y)), points)
    return third / second


@cache
def kappa_tea(alpha: Fraction, n: int) -> float:
    z = mp.sqrt(2) * mp.erfinv(1 - 2 * mp.mpf(alpha.numerator) / alpha.denominator)
    mills = mp.npdf(z) * alpha.denominator / alpha.numerator
    best = mp.quad(lambda x: x * n * mp.npdf(x) * mp.ncdf(x) ** (n - 1), [-8, -2, 0, 2, 4, 6, 14])
    return float((best - mills) / mp.sqrt(1 + z * mills - mills**2))


def kappa_l(xi, alpha: Fraction, n: int):
    a = mp.mpf(alpha.numerator) / alpha.denominator
    g = (a**xi * mp.gamma(n + 1) * mp.gamma(1 - xi) / mp.gamma(n + 1 - xi) - 1) / xi
    return (2 - xi) * ((1 - xi) * g - 1)


def tea_scores(rewards, tail, alpha, n):
    values = [rewards[i] for i in tail]
    q, mu = values[-1], math.fsum(values) / len(values)
    s = math.sqrt(math.fsum((v - mu) ** 2 for v in values) / len(values))
    u = [0.0] * len(rewards)
    for i in tail:
        r = rewards[i]
        psi = ((r - q) + kappa_tea(alpha, n) / (2 * s) * ((r - mu) ** 2 - (q - mu) ** 2)) / float(alpha)
        u[i] = max(psi, 0.0)
    return u


def case(rewards, alpha: Fraction, n: int, prior: float) -> dict:
    m, shift = len(rewards), max(rewards)
    below = [r - shift for r in rewards]
    k = min(m, max(2, math.ceil(alpha * m)))
    tail = sorted(range(m), key=lambda i: (-below[i], i))[:k]
    x, q = [below[i] for i in tail[:-1]], below[tail[-1]]
    u, xi, best = None, None, None
    if q == 0:
        u = [0.0] * m
    elif len(x) >= 3:
        l1 = math.fsum(x) / len(x)
        pairs = list(itertools.combinations(x, 2))  # x is sorted from the largest down
        triples = list(itertools.combinations(x, 3))
        l2 = math.fsum((a - b) / 2 for a, b in pairs) / len(pairs)
        if l2 > 1e-8:
            raw = math.fsum((a - 2 * b + c) / 3 for a, b, c in triples) / len(triples) / l2
            w = len(x) / (len(x) + prior)
            tau = mp.mpf(w * raw) + (1 - w) * gaussian_skewness(alpha)
            shape = (3 * tau - 1) / (1 + tau)
            if -1.5 <= shape < 0.5 and kappa_l(shape, alpha, n) > 0:
                xi, h = float(shape), float(kappa_l(shape, alpha, n))
                b = w * float(mp.diff(lambda t: kappa_l(t, alpha, n), shape) * 4 / (1 + tau) ** 2)
                a = h - b * raw
                best = l1 + h * l2 + shift
                u = [0.0] * m
                for place, i in enumerate(tail[:-1]):
                    r, others = x[place] - q, [y - q for j, y in enumerate(x) if j != place]
                    once = math.fsum(min(r, y) for y in others) / len(others)
                    both = list(itertools.combinations(others, 2))
                    twice = math.fsum(min(r, y, z) for y, z in both) / len(both)
                    psi = r + a * (r - 2 * once) + b * (6 * twice - 6 * once + r)
                    u[i] = max(psi / float(alpha), 0.0)
    fallback = u is None
    if fallback:
        u = tea_scores(below, tail, alpha, n)
    mean = math.fsum(u) / m
    return {
        "params": {"alpha": float(alpha), "n": n, "shrinkage": prior},
        "rewards": rewards,
        "advantages": [v - mean for v in u],
        "xi": xi,
        "predicted_bon": best,
        "fallback": fallback,
    }


def main() -> None:
    rng = random.Random(20)
    laws = {
        "normal": lambda: rng.gauss(0, 1),
        "exponential": lambda: rng.expovariate(1),
        "heavy": lambda: (rng.random() ** -0.35 - 1) / 0.35,
        "uniform": lambda: rng.random(),
        "five": lambda: float(rng.randrange(5)),
        "far": lambda: 1e4 + round(rng.gauss(0, 1e-2) * 2**20) / 2**20,
    }
    cases = []
    for name, law in laws.items():
        for m in (8, 16, 33, 64, 130):
            for alpha, n, prior in ((Fraction(1, 5), 128, 20.0), (Fraction(1, 4), 32, 0.0), (Fraction(1, 2), 1000, 5.0)):
                if len(cases) % 3 and m == 130:
                    prior += 1.5
                cases.append(case([law() for _ in range(m)], alpha, n, prior) | {"law": name})
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n")
    print(len(cases), "cases,", sum(c["fallback"] for c in cases), "fall back")


if __name__ == "__main__":
    main()
