"""Print how many comparisons a right order takes, and whether its standard errors hold, on items of known quality.

The platform's choice of pairs is held against random pairs and against comparing all with all. Two kinds of answers:
coin flips by Bradley-Terry, and noisy probabilities, as a model gives them. Nothing of it is timed.
Run: python benchmarks/ranking_simulation.py [--items 400] [--seeds 8]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import kendalltau

from cpllm_model.ranking import BradleyTerry, bradley_terry, next_pairs, refits, round_count

TAU = 0.95
#: Of the true first 1 %, this share has to stand among the first 1 % that are found.
TOP_RIGHT = 0.9
#: Standard deviations in log-odds: of the items, and of the scores that give the first order.
SPREAD, SCORE_NOISE = 2.0, 1.0
#: Noisy probabilities scatter about the true one as a beta distribution of so many observations.
BETA_OBSERVATIONS = 10
ANSWERS = {"coin": "coin flips", "probability": "noisy probabilities"}
#: Items and repeats; standard errors are computed exactly up to 1000 items, and drawn beyond.
COVERAGE = ((30, 60), (200, 12), (1000, 4), (3000, 2))
#: Their first seed: not those on which ranking.py's way to take the scatter was chosen.
COVERAGE_SEED = 1000


def main() -> None:
    """Simulate, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    n, seeds = arguments.items, range(arguments.seeds)
    print(
        f"{n} items, {len(seeds)} seeds; {round_count(n)} rounds, as the platform makes, are at most n log2 n pairs\n"
    )
    print(f"| answers | pairs | to tau {TAU} | to {TOP_RIGHT:.0%} of the first 1 % | after {round_count(n)} rounds |")
    print("| --- | --- | --- | --- | --- |")
    for answer, words in ANSWERS.items():
        for choice in ("platform", "random"):
            found = np.array([learn(n, seed, choice, answer) for seed in seeds])
            counts, taus, tops = found.mean(axis=0).T
            here = checkpoints(n).index(round_count(n))
            after = f"{counts[here]:,.0f} pairs: tau {taus[here]:.3f}, {tops[here]:.0%}"
            cells = [needed(counts, taus, TAU), needed(counts, tops, TOP_RIGHT), after]
            print(f"| {words} | {choice} | {' | '.join(cells)} |")
        counts, taus, tops = np.mean([all_with_all(n, seed, answer) for seed in seeds], axis=0)
        print(f"| {words} | all with all | | | {counts:,.0f} pairs: tau {taus:.3f}, {tops:.0%} |")
    print("\n| items | answers | 95 % intervals that hold the truth |\n| --- | --- | --- |")
    for items, repeats in COVERAGE:
        for answer, words in ANSWERS.items():
            held = np.mean([coverage(items, COVERAGE_SEED + seed, answer) for seed in range(repeats)])
            print(f"| {items} | {words} | {held:.1%} |")


def checkpoints(n: int) -> list[int]:
    """Give the numbers of rounds after which the order is judged: each, then a tenth more each time."""
    rounds = [1]
    while rounds[-1] < n - 1:
        rounds.append(min(n - 1, max(rounds[-1] + 1, round(rounds[-1] * 1.1))))
    return sorted({*rounds, round_count(n)})


def needed(counts: np.ndarray, values: np.ndarray, least: float) -> str:
    """Give the number of pairs from which on the values reach the least one."""
    below = np.flatnonzero(values < least)
    first = below[-1] + 1 if len(below) else 0
    return f"{counts[first]:,.0f}" if first < len(counts) else f"not with {counts[-1]:,.0f}"


def learn(n: int, seed: int, choice: str, answer: str) -> list[tuple[float, float, float]]:
    """Compare in rounds of n - 1 pairs; give, at each checkpoint, the number of pairs and how right the order is."""
    random, judged = np.random.default_rng(seed), checkpoints(n)
    true_N, score_N = items(n, random)
    shuffled_P2 = random.permutation(np.stack(np.triu_indices(n, 1), axis=1))
    pairs_P2, probability_P, points = np.empty((0, 2), np.int64), np.empty(0), []
    fitted: BradleyTerry | None = None
    for index in range(judged[-1]):
        strength_N = fitted.strength_N if fitted else None
        if choice == "platform":
            pairs_Q2 = next_pairs(score_N, pairs_P2, strength_N, index)
        else:
            pairs_Q2 = shuffled_P2[index * (n - 1) : (index + 1) * (n - 1)]
        pairs_P2 = np.concatenate([pairs_P2, pairs_Q2])
        probability_P = np.concatenate([probability_P, answers(true_N, pairs_Q2, answer, random)])
        if index + 1 in judged:
            fitted = bradley_terry(n, pairs_P2, probability_P, strength_N, precision=1e-3)
            points.append((len(pairs_P2), *judge(true_N, fitted.strength_N)))
    return points


def all_with_all(n: int, seed: int, answer: str) -> tuple[float, float, float]:
    """Compare every pair once; give the number of pairs and how right the order is."""
    random = np.random.default_rng(seed)
    true_N, _ = items(n, random)
    pairs_P2 = np.stack(np.triu_indices(n, 1), axis=1)
    fitted = bradley_terry(n, pairs_P2, answers(true_N, pairs_P2, answer, random))
    return len(pairs_P2), *judge(true_N, fitted.strength_N)


def coverage(n: int, seed: int, answer: str) -> float:
    """Rank as the platform does, and give the share of 95 % intervals that hold the true strength."""
    random = np.random.default_rng(seed)
    true_N, score_N = items(n, random)
    pairs_P2, probability_P, fitted = np.empty((0, 2), np.int64), np.empty(0), None
    for index in range(round_count(n)):
        if refits(index):
            fitted = bradley_terry(n, pairs_P2, probability_P)
        pairs_Q2 = next_pairs(score_N, pairs_P2, fitted.strength_N if fitted else None, index)
        pairs_P2 = np.concatenate([pairs_P2, pairs_Q2])
        probability_P = np.concatenate([probability_P, answers(true_N, pairs_Q2, answer, random)])
    fitted = bradley_terry(n, pairs_P2, probability_P)
    return float((np.abs(fitted.strength_N - true_N) < 1.96 * fitted.strength_se_N).mean())


def items(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw true strengths, and scores that know them roughly."""
    true_N = random.normal(0, SPREAD, n)
    true_N -= true_N.mean()
    return true_N, true_N + random.normal(0, SCORE_NOISE, n)


def answers(true_N: np.ndarray, pairs_P2: np.ndarray, answer: str, random: np.random.Generator) -> np.ndarray:
    """Draw the outcomes of comparisons."""
    expected_P = expit(true_N[pairs_P2[:, 0]] - true_N[pairs_P2[:, 1]])
    if answer == "coin":
        return (random.random(len(pairs_P2)) < expected_P).astype(float)
    return random.beta(BETA_OBSERVATIONS * expected_P, BETA_OBSERVATIONS * (1 - expected_P))


def judge(true_N: np.ndarray, strength_N: np.ndarray) -> tuple[float, float]:
    """Give Kendall's tau, and the share of the true first 1 % among the first 1 % found."""
    top = max(1, len(true_N) // 100)
    right = np.isin(np.argsort(-true_N)[:top], np.argsort(-strength_N)[:top]).mean()
    tau: Any = kendalltau(true_N, strength_N)
    return float(tau.statistic), float(right)


if __name__ == "__main__":
    main()
