"""Frozen maps from examples to the features on which sets of them are held together."""
