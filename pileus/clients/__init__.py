"""The client seams: what one service may know of another. Each providing service implements its own in process."""
