"""Models that other libraries have trained, as models of ours."""
