"""Methods by name, and what may be said of each."""

import pytest
import torch

from ornstein.core.measure import Mask
from ornstein.core.measured import DAPS, DDRM, DPS, METHODS, RePaint
from ornstein.core.posterior import Measured
from ornstein.errors import UsageError
from ornstein.evaluate.measures.calibration import in_words
from ornstein.tasks.methods import caution, method_of, particles_of
from ornstein.tasks.options import RestoreOptions, checked
from ornstein.tasks.restore import key_of, restore
from untrained import tiny_model


def asked(method: str, **tuning: float) -> RestoreOptions:
    return checked(RestoreOptions, {"method": method, "tuning": tuning or None})


@pytest.mark.parametrize(
    ("options", "sampler"),
    [
        (asked("dps", zeta=0.3), DPS(zeta=0.3)),
        (asked("ddrm", eta=1, eta_b=0.5), DDRM(eta=1, eta_b=0.5)),
        (asked("daps", inner=2.0), DAPS(inner=2)),
        (asked("repaint", resamples=3), RePaint(resamples=3)),
        (asked("mmps"), None),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_a_method_is_tuned_by_what_the_options_say(options, sampler):
    assert method_of(options).sampler == sampler


def test_without_a_word_every_method_is_as_its_class_has_it():
    for name in METHODS:
        assert method_of(asked(name)).sampler == METHODS[name]().sampler


def test_what_is_said_changes_what_is_drawn_and_the_name_of_the_measurement():
    y = torch.full((1, 1, 4, 4), 8.0)
    how = {"upscale": 2, "draws": 1, "steps": 2, "method": "diffpir", "noise": 1.0}
    model = tiny_model()
    loose, tight = (restore(model, y, **how, tuning={"weight": w}).samples.x for w in (9.0, 0.1))
    assert not torch.equal(loose, tight)
    assert key_of(asked("dps", zeta=0.3), None) != key_of(asked("dps", zeta=1.0), None)


def test_what_is_known_to_be_wrong_is_said_of_those_methods_that_a_gaussian_shows():
    assert caution(asked("mmps")) == caution(asked("particles")) == ""
    said = restore(tiny_model(), torch.zeros(1, 1, 4, 4), upscale=2, steps=2, method="daps").caution
    assert "daps are biased" in said and "0.83 times" in said and "1.99 times" in said


def test_bands_of_more_draws_are_another_measurement_and_those_of_too_few_are_not():
    few, nineteen, many = (key_of(RestoreOptions(draws=n), None) for n in (4, 19, 79))
    assert few == nineteen != many


def test_the_words_of_a_report_can_tune_a_method():
    words = ["upscale=2", "method=dps", "method.zeta=0.5"]
    assert in_words(words) == {"upscale": "2", "method": "dps", "tuning": {"zeta": 0.5}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (asked("dsp"), "no method 'dsp'; did you mean 'dps'"),
        (asked("dps", zetta=1), "dps knows no 'zetta'; did you mean 'zeta'"),
        (asked("pigdm", zeta=1), "pigdm knows no 'zeta': it has nothing to tune"),
        (asked("dps", zeta=-1), "zeta must be a finite number >= 0, got -1"),
        (asked("ddrm", eta=2), r"must lie in \[0, 1\], got 2"),
        (asked("daps", inner=0), "inner and rounds must be at least 1, got 0 and 5"),
        (asked("repaint", resamples=0), "resamples must be at least 1"),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_what_cannot_be_is_told_in_one_sentence(options, message):
    with pytest.raises(UsageError, match=message):
        method_of(options)


def test_particles_are_drawn_anew_as_early_as_asked():
    seen = Measured(Mask(torch.ones(3, dtype=torch.bool)), torch.zeros(1, 3))
    assert particles_of(asked("particles", least=0.9), seen).least == 0.9
    for wrong in ({"least": 1.5}, {"lest": 0.5}):
        with pytest.raises(UsageError, match="least"):
            particles_of(asked("particles", **wrong), seen)
