"""Batches for the tree in `branched`: any images and maps, any outputs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.runtime.branched import ALL, EARLY, EMBEDDING, EXIT, IMAGES, MAPS, WHOLE, A, B, rows_of

LARGEST = 8
NUMBERS = st.lists(st.integers(0, 23), max_size=4)


@st.composite
def batches(draw):
    """The outputs wanted, the numbers of the images, and those of the images whose maps are known."""
    wanted = draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    images = draw(NUMBERS)
    known = {}
    if {A, EMBEDDING, B, EXIT} & set(wanted) and (maps := draw(NUMBERS)):
        known[MAPS] = maps
        if B in wanted:
            known[EARLY] = maps
    if A in wanted and (embeddings := draw(NUMBERS)):
        known[EMBEDDING] = embeddings
    most = max((len(rows_of(ref, images, known)) for ref in wanted), default=0)
    if most > LARGEST:
        known.pop(EMBEDDING, None)
    if not images and not known:
        images = draw(st.lists(st.integers(0, 23), min_size=1, max_size=LARGEST))
    return wanted, images, known


def values(known):
    """The maps of those images, as a store would give them."""
    return {ref: [WHOLE[ref][number] for number in numbers] for ref, numbers in known.items()}


_GIVES = "Stage prefix gives maps float32 N x 4 x 8 x 8, so no map of it is a "
_FIX = "; give maps of this stage, each without the batch."
# Known maps of the prefix that it does not give, and the sentence that says so.
WRONG_MAPS = {
    "of another size": ([WHOLE[MAPS][0], WHOLE[MAPS][1, :, :7]], "float32 4 x 7 x 8"),
    "that numpy would repeat": ([WHOLE[MAPS][0, :1]], "float32 1 x 8 x 8"),
    "with a batch": ([WHOLE[MAPS][:1]], "float32 1 x 4 x 8 x 8"),
    "one as if it were a batch": (WHOLE[MAPS][0], "float32 8 x 8"),
    "an array of another size": (WHOLE[MAPS][:2, :3], "float32 3 x 8 x 8"),
    "quantized": ([WHOLE[MAPS][0].astype(np.int8)], "int8 4 x 8 x 8"),
    "numbers": ([np.float32(1)], "float32 single number"),
}
WRONG_MAPS = {name: (maps, f"{_GIVES}{what}{_FIX}") for name, (maps, what) in WRONG_MAPS.items()}
# Images that the engines do not take.
WRONG_IMAGES = {
    "of another size": ([IMAGES[0], IMAGES[1, :, 1:]], "float32 2 x 3 x 7 x 8"),
    "that numpy would repeat": ([IMAGES[0, :1]], "float32 1 x 1 x 8 x 8"),
    "of another dtype": (list(IMAGES[:2].astype(np.uint8)), "uint8 2 x 3 x 8 x 8"),
}
WRONG_IMAGES = {
    name: (images, f"The engine takes x float32 N x 3 x 8 x 8, not {what}; convert it first.")
    for name, (images, what) in WRONG_IMAGES.items()
}
