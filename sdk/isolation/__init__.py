"""Engines in a process of their own: what crashes or hangs there is an error here, and the next call starts it again."""

from __future__ import annotations

from edgekit.isolation.request import Isolation

__all__ = ["Isolation"]
