"""Judge: whether a correction serves, in simulated int8 and on inputs that it was not made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgekit.exporters.sources import Source
from edgekit.quantization.correction.network import Network, spread
from edgekit.quantization.correction.simulation import Simulation, snr_db
from edgekit.tensors import Array

GAIN_DB = 0.5  # less than this in the simulation means nothing in an engine
FEW = 8  # inputs, below which none can be spared


class Judge:
    """A network before and after its correction.

    `fitted` are at most `count` of the calibration inputs, to correct by; a quarter of the calibration is held out.
    """

    def __init__(
        self, network: Network, keep_float: Sequence[str], calibration: Sequence[tuple[Array, ...]], count: int
    ) -> None:
        self.network, self.keep_float = network, keep_float
        enough = len(calibration) >= FEW
        rest = [arrays for index, arrays in enumerate(calibration) if index % 4 != 3] if enough else calibration
        self.fitted = spread(rest, count)
        self.held = spread(calibration[3::4] if enough else calibration, max(4, count // 2))
        with torch.no_grad():
            self.exact = [network.run(given) for given in self.held]
        self.before = self.int8_db()

    @torch.no_grad()
    def int8_db(self) -> float:
        """SNR in dB of the network's int8 as it is now, against its fp32 as it was."""
        simulation = Simulation(self.network, self.network.quantized(self.keep_float), self.fitted)
        return snr_db([simulation.run(given) for given in self.held], self.exact)

    def verdict(self, source: Source, told: str, progress: Callable[[str], None]) -> Source:
        """The corrected source, or `source` itself where the correction gained nothing; progress is told."""
        after = self.int8_db()
        told = f"{told}, {self.before:.1f} → {after:.1f} dB in int8"
        if not after >= self.before + GAIN_DB:
            progress(f"{told}; nothing gained, the network stays as it is")
            return source
        progress(told)
        return self.network.corrected()
