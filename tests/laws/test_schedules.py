"""Laws of every noise schedule: one list, one test per law."""

import pytest
import torch
from torch.testing import assert_close

from ornstein.core import noise

T = torch.linspace(0, 1, 101, dtype=torch.float64)

SCHEDULES = [
    noise.DDPMSchedule(),
    noise.DDPMSchedule(steps=40, beta_last=0.3),
    noise.LinearSchedule(),
    noise.SubVPSchedule(),
    noise.CosineSchedule(),
    noise.SigmoidSchedule(),
    noise.FlowSchedule(),
    noise.KarrasSchedule(),
    noise.GeometricSchedule(),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_log_snr_decreases_and_has_the_inverse_it_claims(schedule):
    log_snr = schedule.log_snr(T)
    assert (log_snr[1:] < log_snr[:-1]).all()
    assert_close(schedule.time(log_snr), T, rtol=0, atol=1e-12)
