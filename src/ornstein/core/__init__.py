"""The mathematics: schedules, denoisers, samplers, guidance, posteriors, likelihood."""
