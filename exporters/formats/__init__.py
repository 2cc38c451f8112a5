"""Converters: one file a format, and what they stand on."""
