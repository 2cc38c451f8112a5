"""Live video: source → latest-frame slot → effect → latest-frame slot → view, each in a thread of its own."""
