"""Models trained side by side, and who is better in what."""
