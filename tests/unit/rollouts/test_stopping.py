"""Stop strings' automata against a search in the text."""

from __future__ import annotations

import itertools

import pytest

from assent.rollouts.stopping import _table


@pytest.mark.parametrize("string", ["a", "aab", "abab", "aaa", "abaabab"])
def test_a_state_is_how_much_of_the_string_the_text_ends_with(string: str) -> None:
    """Strings that begin again within themselves: after "aa", another "a" is still two thirds of "aab"."""
    texts = ["".join(letters) for n in range(4) for letters in itertools.product("ab", repeat=n)]
    table = _table(string, texts)
    assert len(table) == len(string) + 1
    for state, after in enumerate(table):
        for text, found in zip(texts, after, strict=True):
            whole = string[:state] + text
            ends_with = max(k for k in range(len(string) + 1) if whole.endswith(string[:k]))
            assert found == (len(string) if string in whole else ends_with)
