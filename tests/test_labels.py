"""Names of classes in one form, and the names that files of others hold."""

from __future__ import annotations

import doctest
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit import labels
from trtkit.errors import TrtkitError
from trtkit.labels import checked_labels, clean_label, labels_in

NFC, NFD = "caf\u00e9", "cafe\u0301"
NAMES = st.lists(st.text(min_size=1).map(clean_label), min_size=1, unique=True)


def test_the_examples():
    assert doctest.testmod(labels).failed == 0


@given(st.text())
def test_a_clean_label_stays_and_is_that_of_every_form(text):
    label = clean_label(text)
    assert clean_label(label) == label
    if label.strip("\ufeff\r\n"):
        assert clean_label(unicodedata.normalize("NFD", label)) == label
        assert clean_label("\ufeff" + label + "\r") == label


def test_two_spellings_of_one_class_are_refused_in_one_sentence():
    with pytest.raises(TrtkitError, match="photos spells caf\u00e9 in two Unicode forms"):
        checked_labels([NFC, "car", NFD], "photos")
    # ImageNet has two classes called crane.
    assert checked_labels(["crane", NFD, "crane"], "x") == ("crane", NFC, "crane")


@given(NAMES, st.integers(0, 5), st.sampled_from(["names", "class_names", "id2label"]))
def test_names_are_read_in_every_notation(names, form, key):
    by_index = dict(enumerate(names))
    forms = [
        names,
        by_index,
        str(by_index),
        repr(names),
        json.dumps({str(index): name for index, name in by_index.items()}),
        json.dumps({name: index for index, name in by_index.items()}),
    ]
    assert labels_in({"other": "x", key: forms[form]}) == names


@pytest.mark.parametrize(
    "value",
    [
        None, 7, "", "cat", "{0: 'cat', 2: 'dog'}", "{0: 'cat', 0: 1}", {"cat": 0, "dog": 0}, {}, [],
        "{0: 'cat'", "__import__('os').abort()", "[__import__('os')]", "[" * 100_000, "{0: [" * 9,
        "[" + "-" * 100_000 + "1]", {"cat": True, "dog": False}, {0: "a", 1: 2}, {"a": -1},
        "[" + "'x'," * 2_000_000 + "]",
    ],
)  # fmt: skip
def test_what_is_no_list_of_names(value):
    assert labels_in({"names": value}) is None
