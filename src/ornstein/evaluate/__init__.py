"""Samples turned into numbers, each beside its floor, and into a report a person reads."""
