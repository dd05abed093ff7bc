"""Which plans can be loaded where."""

from __future__ import annotations

import pytest

from trtkit.engines.cuda.device import Card
from trtkit.engines.options import BuildOptions
from trtkit.engines.tensorrt.backend import check_origin, describe_origin
from trtkit.errors import TrtkitError

A10 = Card("NVIDIA A10", (8, 6), 24 << 30)
RTX = Card("NVIDIA GeForce RTX 3090", (8, 6), 24 << 30)
H100 = Card("NVIDIA H100", (9, 0), 80 << 30)
T4 = Card("Tesla T4", (7, 5), 16 << 30)


def loads(record, library, version, card):
    try:
        check_origin(record, library, version, card, "trtkit build --bundle b")
    except TrtkitError as error:
        assert str(error).endswith("run `trtkit build --bundle b` to build it for this machine.")
        return False
    return True


@pytest.mark.parametrize(
    ("options", "built", "here", "fits"),
    [
        ({}, ("10.3.0", A10), ("10.3.0", A10), True),
        ({}, ("10.3.0", A10), ("10.3.1", A10), False),
        ({}, ("10.3.0", A10), ("10.3.0", RTX), False),
        ({}, ("10.3.0", A10), ("10.3.0", H100), False),
        ({"hardware_compatible": True}, ("10.3.0", A10), ("10.3.0", H100), True),
        ({"hardware_compatible": True}, ("10.3.0", H100), ("10.3.0", A10), True),
        ({"hardware_compatible": True}, ("10.3.0", A10), ("10.3.0", T4), False),
        ({"hardware_compatible": True}, ("10.3.0", A10), ("10.4.0", A10), False),
        ({"version_compatible": True}, ("8.6.1", A10), ("8.6.2", A10), True),
        ({"version_compatible": True}, ("8.6.1", A10), ("10.3.0", A10), True),
        ({"version_compatible": True}, ("10.3.0", A10), ("11.4.0.106", A10), True),
        ({"version_compatible": True}, ("8.6.1", A10), ("11.4.0.106", A10), False),
        ({"version_compatible": True}, ("10.3.0", A10), ("10.2.0", A10), False),
        ({"version_compatible": True}, ("10.3.0", A10), ("10.16.0", RTX), False),
    ],
)
def test_tensorrt(options, built, here, fits):
    record = describe_origin("tensorrt", *built, BuildOptions(**options))
    assert loads(record, "tensorrt", *here) == fits


@pytest.mark.parametrize(
    ("version", "card", "fits"),
    [("1.7", RTX, True), ("1.7", A10, True), ("1.7", H100, False), ("1.7", T4, False), ("1.8", RTX, False)],
)  # fmt: skip
def test_tensorrt_for_rtx_runs_on_the_cards_it_targets_wherever_it_was_built(version, card, fits):
    record = describe_origin("tensorrt-rtx", "1.7", None, BuildOptions())
    assert loads(record, "tensorrt-rtx", version, card) == fits
    assert not loads(record, "tensorrt", version, card)


def test_the_sentence_names_only_what_differs():
    record = describe_origin("tensorrt", "10.3.0", A10, BuildOptions())
    with pytest.raises(TrtkitError) as caught:
        check_origin(record, "tensorrt", "10.3.0", H100, "trtkit build")
    assert str(caught.value) == (
        "The engine was built with NVIDIA A10 (compute capability 8.6), here is NVIDIA H100 (compute "
        "capability 9.0); run `trtkit build` to build it for this machine."
    )
