"""Keys: one for one canonical natural key, different ones for different ones."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from deptbus.contract.model import CanonicalForm
from deptbus.wire.keys import KeyMaker, canonical

MAKER = KeyMaker(bytes(32), "resident")

# Much that the forms change, and that might run over from one part into the next.
TEXT = st.text(
    st.one_of(
        st.sampled_from("aAxX1 \u3000ａＡ１\t\ufeff\x00"), st.characters(exclude_categories=["Cs"])
    ),
    max_size=6,
)
NATURAL = st.lists(TEXT, min_size=1, max_size=3)


@given(TEXT)
def test_canonical_form_is_final(text: str) -> None:
    once = canonical(text)
    assert canonical(once) == once


@given(TEXT, st.lists(st.sampled_from(CanonicalForm), max_size=3))
def test_ascii_takes_the_same_way_as_all_text(text: str, forms: list[CanonicalForm]) -> None:
    """ASCII goes a quicker way: with a character that no form touches behind it, it does not."""
    slow = canonical(f"中{text}中", [f for f in forms if f is not CanonicalForm.TRIM])
    quick = canonical(text, [f for f in forms if f is not CanonicalForm.TRIM])
    assert slow == f"中{quick}中"


@given(NATURAL, NATURAL)
def test_keys_are_equal_exactly_when_canonical_natural_keys_are(
    one: list[str], other: list[str]
) -> None:
    forms = [tuple(map(canonical, natural)) for natural in (one, other)]
    assume(any(forms[0]) and any(forms[1]))  # nothing has no key
    assert (MAKER.key(one) == MAKER.key(other)) == (forms[0] == forms[1])
