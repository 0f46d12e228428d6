from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lggseg import config as configuration
from lggseg.config import Config
from lggseg.experiments import search_space
from lggseg.utils.errors import DataError

configs = st.builds(
    Config,
    width=st.integers(2, 64),
    neighbours=st.booleans(),
    test_flips=st.booleans(),
    deterministic=st.booleans(),
    learning_rate=st.floats(1e-8, 1.0),
    loss=st.sampled_from(["dice_bce", "dice_focal"]),
    precision=st.sampled_from(["auto", "32-true", "bf16-mixed"]),
    downsample=st.sampled_from([1, 2, 4]),
)


@given(configs)
def test_strings_and_back(config: Config) -> None:
    strings = config.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert Config.from_strings(strings) == config


@given(configs)
def test_options_and_back(config: Config) -> None:
    parser = argparse.ArgumentParser()
    configuration.add_options(parser)
    pairs = config.to_strings().items()
    arguments = [part for name, text in pairs for part in ("--" + name.replace("_", "-"), text)]
    assert configuration.from_options(parser.parse_args(arguments)) == config


def test_options_change_the_profile() -> None:
    parser = argparse.ArgumentParser()
    configuration.add_options(parser)
    options = parser.parse_args(["--profile", "smoke", "--neighbours", "false", "--epochs", "5"])
    expected = replace(configuration.profile("smoke"), neighbours=False, epochs=5)
    assert configuration.from_options(options) == expected


def test_file_and_back(tmp_path: Path) -> None:
    config = Config(width=24, neighbours=False)
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    config = Config(min_component_fraction=0.25)
    config.save(tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    assert "min_component_fraction" in text
    (tmp_path / "config.json").write_text(text.replace("min_component_fraction", "smallest_part"))
    assert Config.load(tmp_path / "config.json") == config


def test_the_tuners_extra_quotes_are_taken_off() -> None:
    assert Config.from_strings({"loss": '"dice_focal"'}).loss == "dice_focal"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": "1"}, "unknown hyperparameter 'learning_rat'"),
        ({"neighbours": "yes please"}, "neighbours='yes please': expected true or false"),
        ({"epochs": "many"}, "epochs='many': expected a value of type int"),
        ({"epochs": "0"}, "epochs='0': expected a value from 1 to inf"),
        ({"downsample": "3"}, "downsample='3': expected 1, 2 or 4"),
        ({"learning_rate": "nan"}, "learning_rate='nan': expected a value from 0 to inf"),
    ],
)
def test_bad_values_name_the_hyperparameter(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_strings(values)


def test_unknown_profile() -> None:
    with pytest.raises(ValueError, match="profile 'huge'"):
        configuration.profile("huge")


def test_every_hyperparameter_is_explained() -> None:
    assert all(field.default.description for field in fields(Config))


def test_search_space_lies_inside_the_limits() -> None:
    for name, space in search_space.SEARCH_SPACE.items():
        ends = space.values if isinstance(space, search_space.Choice) else (space.low, space.high)
        for value in ends:
            assert getattr(replace(Config(), **{name: value}), name) == value


def test_choices_as_strings_parse_back() -> None:
    for name, space in search_space.SEARCH_SPACE.items():
        for value in space.values if isinstance(space, search_space.Choice) else ():
            assert getattr(Config.from_strings({name: str(value)}), name) == value


def test_a_space_reads_well() -> None:
    assert str(search_space.Range(5e-4, 0.02, log=True)) == "0.0005 to 0.02, logarithmic"
    assert str(search_space.Choice(("a", "b"))) == "a, b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "5"),
        ("epochs", 5.0),
        ("epochs", 2.5),
        ("epochs", True),
        ("learning_rate", "fast"),
        ("downsample", True),
        ("downsample", 2.0),
        ("downsample", 3),
        ("optimizer", "sgd"),
        ("optimizer", None),
        ("threshold", "0.5"),
        ("threshold", None),
        ("paste", 3),
        ("paste", "true"),
        ("network", 1),
        ("learning_rate", float("inf")),
        ("learning_rate", 10**400),
        ("learning_rate", float("nan")),
    ],
)
def test_types_are_enforced(name: str, value: object) -> None:
    sentence = rf"^{name}={value!r}: expected [^\n]*$"
    with pytest.raises(ValueError, match=sentence):
        Config(**{name: value})
    with pytest.raises(ValueError, match=sentence):
        replace(Config(), **{name: value})


def test_an_unknown_name_is_refused_and_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="unknown hyperparameter 'epoch': expected one of"):
        Config(epoch=3)
    with pytest.raises(FrozenInstanceError):
        Config().epochs = 3


@pytest.mark.parametrize("text", ["true", "True", "1", "false", "False", "0", '"false"'])
def test_booleans_of_sagemaker(text: str) -> None:
    expected = text.strip('"').lower() in ("true", "1")
    assert Config.from_strings({"paste": text}).paste is expected


def test_a_config_behaves_as_a_dataclass() -> None:
    config = Config("attention", 16, epochs=3)
    assert (config.network, config.width) == ("attention", 16)
    assert config == Config(**asdict(config)) == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(replace(config)) and config != replace(config, epochs=4)
    assert list(asdict(config)) == [field.name for field in fields(Config)]


def test_numbers_of_numpy_are_numbers_and_can_be_saved(tmp_path: Path) -> None:
    config = Config(epochs=np.int64(3), learning_rate=np.float32(0.5), dropout=0)
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config
    assert [type(v) for v in (config.epochs, config.learning_rate, config.dropout)] == [
        int,
        float,
        float,
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no readable JSON"),
        ("{", "no readable JSON"),
        ("[" * 100_000, "no readable JSON"),
        ("[1]", "a list in JSON"),
        ('{"epochs": 3}', "the hyperparameters of another version"),
        (json.dumps({**asdict(Config()), "epochs": "5"}), "a wrong hyperparameter .epochs='5'"),
    ],
)
def test_a_file_that_is_no_config_is_named(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=f"config.json: found {found}"):
        Config.load(tmp_path / "config.json")
