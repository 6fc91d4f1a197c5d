"""Experiments: the story's, storms against any cloud, and advice from what a running cloud measured."""
