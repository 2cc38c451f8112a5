"""Null view: shows nothing, and measures; where the pipeline records, it is the view "file"."""

from __future__ import annotations

from edgekit.demos.live.pipeline import TICK_S, Pipeline
from edgekit.demos.live.views.view import View


class NullView(View):
    """Takes each frame as a view would."""

    def run(self, pipeline: Pipeline) -> None:
        seen = 0
        while not pipeline.over:
            taken = pipeline.output.take(seen, TICK_S)
            if taken is not None:
                seen = taken.number
                pipeline.shown(taken.item)
