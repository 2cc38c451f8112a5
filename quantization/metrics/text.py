"""Quality of text models: how surprised they are by text that they were not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.bundle import Bundle
from edgekit.quantization.metrics.metric import Metric
from edgekit.tasks import load
from edgekit.tasks.write import TextGenerator


@dataclass
class NatsPerChar(Metric):
    """Mean of -ln p(character | all before it), the cross-entropy, through the step graph; lower is better."""

    text: str
    data: str
    name: str = "nats_per_char"
    higher_is_better: bool = False

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as writer:
            assert isinstance(writer, TextGenerator)
            return writer.nats_per_char(self.text)


def bits(nats: float) -> float:
    """Nats → bits."""
    return nats / math.log(2)
