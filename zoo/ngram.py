"""The baseline of text models: character n-grams with interpolated Kneser-Ney smoothing.

Kneser and Ney 1995; Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques": a discount for
each order, n1 / (n1 + 2 n2) from the counts of counts, and lower orders that count in how many contexts a
character was seen.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict


class NGram:
    """Probabilities of a character after the `order` - 1 before it."""

    def __init__(self, text: str, order: int, characters: int) -> None:
        self.order, self.characters = order, characters
        self.levels: list[tuple[dict[str, int], dict[str, tuple[int, int]], float]] = []
        counts: Counter[str] = Counter(text[i : i + order] for i in range(len(text) - order + 1))
        for _ in range(order):
            self.levels.insert(0, (counts, _contexts(counts), _discount(counts)))
            counts = Counter(gram[1:] for gram in counts)  # in how many contexts each shorter gram was seen

    def probability(self, context: str, character: str) -> float:
        """p(character | context), of which the last order - 1 characters count."""
        value = 1.0 / self.characters
        for size, (counts, contexts, discount) in enumerate(self.levels):
            before = context[len(context) - size :] if size else ""
            if len(before) < size or before not in contexts:
                break
            total, kinds = contexts[before]
            value = (max(0.0, counts.get(before + character, 0) - discount) + discount * kinds * value) / total
        return value

    def nats_per_char(self, text: str) -> float:
        """Mean of -ln p over a text."""
        reach = self.order - 1
        return sum(-math.log(self.probability(text[max(0, i - reach) : i], c)) for i, c in enumerate(text)) / len(text)


def _contexts(counts: Counter[str]) -> dict[str, tuple[int, int]]:
    """Context → (its counts in all, how many characters follow it)."""
    totals: defaultdict[str, int] = defaultdict(int)
    kinds: defaultdict[str, int] = defaultdict(int)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]] += 1
    return {context: (total, kinds[context]) for context, total in totals.items()}


def _discount(counts: Counter[str]) -> float:
    once = sum(1 for n in counts.values() if n == 1)
    twice = sum(1 for n in counts.values() if n == 2)
    return once / (once + 2 * twice) if once else 0.5
