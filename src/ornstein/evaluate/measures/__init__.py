"""Samples turned into numbers, each beside its floor."""
