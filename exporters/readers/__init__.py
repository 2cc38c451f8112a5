"""Readers: from whatever a person names to sources that can be exported, one file a kind."""
