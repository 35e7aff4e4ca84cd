"""A value keeps the kind of its default."""

import pytest
from omegaconf import OmegaConf

from bilevel.cli.sentences import SettingsError
from bilevel.cli.settings import check_kind

GROUP, LIST = OmegaConf.create({"a": 1, "b": 2}), OmegaConf.create([1, 2])


@pytest.mark.parametrize(
    ("value", "default"),
    [
        *((3, 1), (3, 1.5), (3.5, 1.5), (float("inf"), 1.5), ("a", "b"), (True, False)),
        *((3, None), ("a", None), (GROUP, GROUP), (LIST, LIST), (None, None)),
    ],
)
def test_the_same_kind_is_accepted(value, default):
    assert check_kind("key", value, default) is None


@pytest.mark.parametrize(
    ("value", "default", "sentence"),
    [
        ("a", 1, "key=a: a whole number is needed, as in key=1"),
        (1.5, 1, "key=1.5: a whole number is needed"),
        (True, 1, "key=True: a whole number is needed"),
        (None, 1, "key=None: a whole number is needed"),
        ("a", 1.5, r"key=a: a number is needed, as in key=1\.5"),
        (True, 1.5, "key=True: a number is needed"),
        (float("nan"), 1.5, "key=nan: a number is needed"),
        (1, "a", "key=1: a word is needed, as in key=a"),
        (1, True, "key=1: true or false is needed, as in key=true"),
        (1, GROUP, "key=1: key is a group of settings; set one of a, b"),
        (1, LIST, r"key=1: a list is needed, as in key=\[a,b\]"),
    ],
)
def test_another_kind_is_refused(value, default, sentence):
    with pytest.raises(SettingsError, match=sentence):
        check_kind("key", value, default)
