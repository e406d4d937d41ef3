"""How often does a leaderboard without any effect show one? Our test beside simpler ones, and its power.

Run: ``python benchmarks/false_positives.py`` (about four minutes on one core; ``--quick`` for a tenth of that).

Every simulated leaderboard has 3 tasks x 3 arms x 2 fractions, 5 seeds and 500 items. All arms, the baseline
included, are drawn from one distribution, so that no difference is real. Items have their own difficulty, shared by
all arms; arms differ on single items (``ARM_BY_ITEM``); training seeds shift a whole run (``SEED_SPREAD``); the rest
is noise of a run on an item. Tasks: a score in (0, 1) per item; a key score in {0, 0.2, 0.3, 0.5, 1}; the average
precision of one label that a fifth of the items have.
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t, ttest_1samp

from sonido_bench.benchmark.resampling import bootstrap_weights, weighted_mean, weighted_score
from sonido_bench.benchmark.statistics import ALPHA, estimate, holm

Floats = NDArray[np.float64]

SEEDS, ITEMS, RESAMPLES, ARMS, FRACTIONS = 5, 500, 1000, 3, 2
ARM_BY_ITEM = NOISE = 0.5
# Shift of a whole run by its seed: none, or a standard error from seeds 1 or 4 times that from items.
SEED_SPREAD = {"none": 0.0, "moderate": 0.05, "large": 0.2}
EFFECTS = (0.05, 0.1, 0.2, 0.4)
TESTS = (
    "Behrens-Fisher (ours)",
    "the same, Satterthwaite",
    "items' signs flipped",
    "hierarchical percentile bootstrap",
    "t-test over seeds",
)

Outcome = tuple[float, float, float, float, float, float]
"""Boost, and the p-value of each of TESTS."""


class Simulation:
    """Draws leaderboards without effect, or with a given one.

    Args:
        spread: Standard deviation of the shift that a training seed gives to a run, on the latent scale.
        effect: Shift of every arm but the baseline.
        seed: Of everything.
    """

    def __init__(self, spread: float, effect: float, seed: int) -> None:
        self.spread, self.effect = spread, effect
        self.rng = np.random.default_rng(seed)
        self.weights = bootstrap_weights(ITEMS, RESAMPLES, seed)
        signs = self.rng.integers(0, 2, (ITEMS, RESAMPLES)).astype(np.float32)
        self.swap = np.hstack([np.ones((ITEMS, 1), np.float32), signs])  # column 0 leaves all as it is
        self.drawn_seeds = self.rng.multinomial(SEEDS, [1 / SEEDS] * SEEDS, size=RESAMPLES).T / SEEDS

    def leaderboard(self, naive: bool) -> list[Outcome]:
        """Return all rows of one leaderboard."""
        return [
            row for task in (self._fractional, self._key, self._label) for _ in range(FRACTIONS) for row in task(naive)
        ]

    def _latent(self) -> tuple[Floats, Floats]:
        """Difficulties ``(items,)``, and what arms, seeds and noise add, ``(arms + 1, seeds, items)``."""
        arms = ARMS + 1
        shift = self.rng.normal(0, self.spread, (arms, SEEDS, 1))
        shift[1:] += self.effect
        by_item = self.rng.normal(0, ARM_BY_ITEM, (arms, 1, ITEMS))
        return self.rng.normal(0, 1, ITEMS), shift + by_item + self.rng.normal(0, NOISE, (arms, SEEDS, ITEMS))

    def _fractional(self, naive: bool) -> list[Outcome]:
        ease, rest = self._latent()
        return self._from_items(1 / (1 + np.exp(-ease - rest)), naive)

    def _key(self, naive: bool) -> list[Outcome]:
        ease, rest = self._latent()
        steps = np.searchsorted([-1.0, -0.7, -0.5, 0.0], 1.5 * ease + rest)
        return self._from_items(np.array([0.0, 0.2, 0.3, 0.5, 1.0])[steps], naive)

    def _from_items(self, scores: Floats, naive: bool) -> list[Outcome]:
        differences = scores[1:] - scores[0]
        outcomes = []
        for arm in differences:
            values = np.stack([weighted_mean(one, self.weights) for one in arm])
            flipped = (2 * self.swap - 1).T @ arm.mean(axis=0) / ITEMS if naive else None
            outcomes.append(self._test(values, flipped))
        return outcomes

    def _label(self, naive: bool) -> list[Outcome]:
        """Return outcomes of average precision; a better run tells the label from its absence more clearly."""
        ease, rest = self._latent()
        target = (self.rng.random(ITEMS) < 0.2).astype(float)
        predictions = (1 + rest) * (target - 0.5) * 2 + ease
        scores = np.stack([[_precision(target, run, self.weights) for run in arm] for arm in predictions])
        return [
            self._test(scores[arm] - scores[0], self._swapped(target, predictions[[0, arm]]) if naive else None)
            for arm in range(1, ARMS + 1)
        ]

    def _swapped(self, target: Floats, predictions: Floats) -> Floats:
        """Return the boost after arm and baseline swap their predictions on some items."""
        weights = np.hstack([np.vstack([1 - self.swap, self.swap]), np.vstack([self.swap, 1 - self.swap])])
        scores = [
            _precision(np.tile(target, 2), np.concatenate(pair), weights) for pair in zip(*predictions, strict=True)
        ]
        theirs, ours = np.split(np.mean(scores, axis=0), 2)
        return ours - theirs

    def _test(self, values: Floats, flipped: Floats | None) -> Outcome:
        ours = estimate(values, ITEMS)
        assert ours.p is not None
        if flipped is None:
            return ours.mean, ours.p, 1.0, 1.0, 1.0, 1.0
        signs = float(np.mean(np.abs(flipped) >= abs(ours.mean) - 1e-12))  # the observed one is among them
        resampled = (values[:, 1:] * self.drawn_seeds).sum(axis=0)
        tail = min(float(np.mean(resampled <= 0)), float(np.mean(resampled >= 0)))
        percentile = max(2 * tail, 1 / RESAMPLES)
        over_seeds = float(ttest_1samp(values[:, 0], 0).pvalue)
        return ours.mean, ours.p, _satterthwaite(values), signs, min(percentile, 1.0), over_seeds


def _satterthwaite(values: Floats) -> float:
    """Return the p-value of the same standard error, referred to t with Satterthwaite's degrees of freedom."""
    seeds, items = values[:, 0].var(ddof=1) / SEEDS, values[:, 1:].mean(axis=0).var(ddof=1)
    degrees = (seeds + items) ** 2 / (seeds**2 / (SEEDS - 1) + items**2 / (ITEMS - 1))
    return float(2 * t.sf(abs(values[:, 0].mean()) / np.sqrt(seeds + items), degrees))


def _precision(target: Floats, prediction: Floats, weights: NDArray[np.float32]) -> Floats:
    return weighted_score("average_precision", target[:, None], prediction[:, None], weights)


def _rates(boards: list[list[Outcome]], test: int) -> tuple[float, float, float]:
    """Share of leaderboards with a false "boosts", with any false verdict, and of rows with p < 0.05 uncorrected."""
    boosts = verdicts = rows = 0
    for board in boards:
        p = [outcome[1 + test] for outcome in board]
        wrong = [boost for (boost, *_), corrected in zip(board, holm(p), strict=True) if corrected < ALPHA]
        boosts += any(boost > 0 for boost in wrong)
        verdicts += bool(wrong)
        rows += sum(value < ALPHA for value in p)
    return boosts / len(boards), verdicts / len(boards), rows / sum(map(len, boards))


def _print_false_positives(count: int) -> None:
    print(f"{count} leaderboards without effect per level of spread between seeds, {SEEDS} seeds x {ITEMS} items")
    print(f"{'spread':9} {'test':34} {'any false boosts':>16} {'any false verdict':>18} {'rows, p < 0.05':>15}")
    for level, (name, spread) in enumerate(SEED_SPREAD.items()):
        simulation = Simulation(spread, 0.0, level)
        boards = [simulation.leaderboard(naive=True) for _ in range(count)]
        for test, label in enumerate(TESTS):
            boosts, verdicts, rows = _rates(boards, test)
            print(f"{name:9} {label:34} {boosts:16.1%} {verdicts:18.1%} {rows:15.1%}", flush=True)


def _print_power(count: int) -> None:
    print(f"\npower: share of rows with the verdict 'boosts' (Holm over 18 rows), {count} leaderboards each")
    tasks = f"{'score':>7} {'key':>7} {'AP':>7}"
    print(f"{'spread':9} {'shift':>6}   mean boost: {tasks}   shown: {tasks}")
    for level, spread in SEED_SPREAD.items():
        for effect in EFFECTS:
            simulation = Simulation(spread, effect, seed=7)
            boards = [simulation.leaderboard(naive=False) for _ in range(count)]
            boosts = np.array([[row[0] for row in board] for board in boards])
            shown = np.array([[p < ALPHA for p in holm([row[1] for row in board])] for board in boards]) & (boosts > 0)
            (a, b, c), (x, y, z) = (rows.reshape(count, 3, -1).mean(axis=(0, 2)) for rows in (boosts, shown))
            print(
                f"{level:9} {effect:6.2f} {'':13} {a:7.4f} {b:7.4f} {c:7.4f} {'':8} {x:7.0%} {y:7.0%} {z:7.0%}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the leaderboards")
    count = 50 if parser.parse_args().quick else 500
    started = time.process_time()
    _print_false_positives(count)
    _print_power(count // 10)
    print(f"\n{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
