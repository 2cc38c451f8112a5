"""Schemes: how a network becomes small, one file a precision."""
