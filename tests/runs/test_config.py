import pytest
from hypothesis import given
from hypothesis import strategies as st

from ornstein.errors import UsageError
from ornstein.nets.unet import LEVELS
from ornstein.runs.building import build_net
from ornstein.runs.config import NetConfig, RunConfig, ScheduleConfig, TrainConfig
from ornstein.runs.vocabulary import Vocabulary

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(["source", "seed", "data", "net", "schedule", "train", "sample", "x"])


@given(
    source=st.text(st.characters(exclude_categories=["Cs"])),
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(1e-12, 10),
    options=st.dictionaries(
        st.text("abc_", min_size=1), st.floats(allow_nan=False) | st.text("é\n\"'\\")
    ),
)
def test_toml_gives_the_configuration_back(source, seed, rate, options):
    config = RunConfig(
        source=source,
        seed=seed,
        train=TrainConfig(learning_rate=rate, ema=(0.05, 0.1)),
        schedule=ScheduleConfig(name="cosine", options=options),
    )
    assert RunConfig.from_toml(config.to_toml()) == config


@given(st.dictionaries(KEYS, JSON))
def test_any_json_is_a_configuration_or_a_usage_error(values):
    try:
        config = RunConfig.from_dict(values)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(config, RunConfig)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[net]\nsize = 1000000000", "net.size"),
        ("[train]\nlearning_rate = nan", "train.learning_rate"),
        ("[train]\nseen = 0", "train.seen"),
        ("[train]\nema = []", "train.ema"),
        ("[net]\nwidth = 3", "'width'"),
        ("[net]\nkind = 'os.system'", "net.kind"),
        ("typo = 1", "'typo'"),
        ("[net", "not TOML"),
        pytest.param("source = " + "[" * 10**5, "not TOML", id="deep"),
        pytest.param("seed = " + "9" * 5000, "not TOML", id="long"),
        pytest.param("a" * 900_000 + " = 1", "no 'aaa", id="wordy"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(text, named):
    with pytest.raises(UsageError, match=named.replace(".", r"\.")) as caught:
        RunConfig.from_toml(text)
    assert len(str(caught.value)) < 2000


def test_the_default_network_is_the_one_the_documentation_names():
    assert RunConfig().net == NetConfig(kind="unet", size=32)
    assert RunConfig().net.levels == LEVELS


def test_a_run_from_before_guidance_was_a_range_still_opens():
    config = RunConfig.from_toml("[distill]\nguidance = 1.5\n")
    assert config.distill.guidance == (1.5, 1.5)


def test_a_run_from_before_levels_were_written_keeps_the_network_it_had():
    old = '[net]\nkind = "unet"\nsize = 64\ndepth = 0\n'
    net = build_net(RunConfig.from_toml(old), (3, 32, 32), Vocabulary())
    assert sum(p.numel() for p in net.parameters()) == 5_050_115
    assert RunConfig.from_toml(RunConfig().to_toml()) == RunConfig()
