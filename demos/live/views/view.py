"""View: where frames are shown; its `run` is called in the main thread and returns when it is over."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgekit.demos.live.pipeline import Pipeline
from edgekit.demos.live.sources import Source
from edgekit.errors import InputError


class View(ABC):
    """One place to show frames in."""

    @abstractmethod
    def run(self, pipeline: Pipeline) -> None:
        """Show what comes out of the pipeline until it is over, telling its figures of every frame.

        Raises:
            EdgekitError: the view cannot be had, or failed.
        """

    def camera(self) -> Source:
        """The viewer's own camera, opened as a source, where a view has one.

        Raises:
            InputError: it has none.
        """
        raise InputError("this view has no camera: --source browser needs --view web")
