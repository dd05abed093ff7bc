"""Batches for the tree in `branched`: any images and maps, any outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.runtime.branched import ALL, EARLY, EMBEDDING, EXIT, MAPS, WHOLE, A, B, rows_of

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
