"""Pages: nobody is given one that another holds, and what is known of them is true."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stet.core.row import PAGE
from stet.engine.pages import Pages

pytestmark = pytest.mark.unit


def text(*kinds: int) -> list[int]:
    """A text of whole pages: each is made of one number."""
    return [kind for kind in kinds for _ in range(PAGE)]


def test_all_pages_but_the_first_are_given_out_once() -> None:
    pages = Pages(5)
    assert sorted(pages.take() or 0 for _ in range(4)) == [1, 2, 3, 4]
    assert pages.take() is None
    assert (pages.held, pages.available) == (4, 0)
    pages.grow(7)
    assert sorted(pages.take() or 0 for _ in range(2)) == [5, 6]
    pages.drop(3)
    assert pages.take() == 3


def test_neighbours_are_preferred_where_they_are_free() -> None:
    pages = Pages(10)
    first = pages.take()
    assert [pages.take(after=2), pages.take(after=3), pages.take(after=9)] == [3, 4, 2]
    assert first == 1
    assert pages.take(after=1) == 5  # 2 is taken by now


def test_a_shared_page_is_nobodys_to_write_to() -> None:
    pages = Pages(4)
    page = pages.take()
    assert page is not None
    assert pages.own(page)
    pages.hold(page)
    assert not pages.own(page)
    pages.drop(page)
    assert pages.own(page)


def test_what_begins_alike_is_found_up_to_where_it_parts() -> None:
    pages = Pages(10)
    held = [pages.take() or 0 for _ in range(3)]
    pages.learn(held, [*text(7, 8, 9), 1, 2])
    assert pages.find(text(7, 8, 9, 4)) == held
    assert pages.find([*text(7, 8), *text(9)[1:]]) == held[:2]
    assert pages.find(text(8, 9)) == []  # the same pages elsewhere are other pages
    other = [pages.take() or 0 for _ in range(2)]
    pages.learn(other, text(5, 8))
    assert pages.find(text(5, 8)) == other


def test_a_page_that_is_written_to_is_known_no_longer() -> None:
    pages = Pages(10)
    held = [pages.take() or 0 for _ in range(3)]
    pages.learn(held, text(7, 8, 9))
    assert pages.own(held[1])
    assert pages.find(text(7, 8, 9)) == held[:1]
    # What came after it is not found either, whatever it is followed by.
    pages.learn(held[:2], text(7, 6))
    assert pages.find(text(7, 6, 9)) == held[:2]


def test_known_pages_are_kept_until_they_are_needed_the_oldest_first() -> None:
    pages = Pages(4)
    for kind in (1, 2):
        page = pages.take() or 0
        pages.learn([page], text(kind))
        pages.drop(page)
    assert pages.available == 3
    (again,) = pages.find(text(1))
    pages.hold(again)  # used once more
    pages.drop(again)
    taken = [pages.take(), pages.take()]
    assert None not in taken
    assert pages.find(text(2)) == []
    assert pages.find(text(1)) == [again]
    assert pages.take() == again
    assert pages.take() is None
    assert pages.find(text(1)) == []


def test_forgetting_frees_what_nobody_holds() -> None:
    pages = Pages(3)
    one, other = pages.take() or 0, pages.take() or 0
    pages.learn([one], text(1))
    pages.learn([other], text(2))
    pages.drop(one)
    pages.forget_idle()
    assert pages.find(text(1)) == []
    assert pages.find(text(2)) == [other]
    assert pages.take() == one
    assert pages.take() is None


def test_what_is_not_kept_is_forgotten_with_its_last_holder() -> None:
    pages = Pages(3)
    page = pages.take() or 0
    pages.learn([page], text(1))
    pages.hold(page)
    pages.drop(page, keep=False)
    assert pages.find(text(1)) == [page]
    pages.drop(page, keep=False)
    assert pages.find(text(1)) == []
    assert pages.take() == page


def test_the_free_pages_are_listed_once_however_often_they_are_used() -> None:
    pages = Pages(20)
    for _ in range(200):
        held: list[int] = []
        while len(held) < 10:  # neighbours, but for the first
            held.append(pages.take(held[-1] if held else 7) or 0)
        for page in held:
            pages.drop(page)
    assert len(pages._free) <= pages.count
    assert sorted(pages.take() or 0 for _ in range(19)) == list(range(1, 20))


def test_a_spoiled_page_is_found_by_nobody() -> None:
    pages = Pages(3)
    page = pages.take() or 0
    pages.learn([page], text(1))
    pages.spoil(page)
    assert pages.find(text(1)) == []
    pages.drop(page)
    assert pages.take() == page


def test_a_text_is_looked_for_and_learnt_from_where_it_is_known() -> None:
    pages = Pages(10)
    held = [pages.take() or 0 for _ in range(4)]
    pages.learn(held[:2], text(7, 8))
    assert pages.number([]) == 0
    assert pages.number(held[:2]) not in (None, 0, pages.number(held[:1]))
    assert pages.number(held) is None
    pages.learn(held, text(7, 8, 9, 4))
    assert pages.find(text(7, 8, 9, 4), held[:3]) == held
    twin = [pages.take() or 0 for _ in range(2)]  # the same text in pages of its own
    pages.learn(twin, text(7, 8))
    assert pages.number(twin) is None
    assert pages.find(text(7, 8, 9), twin) == held[:3]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "write", "write", "release", "share", "forget"]),
        st.integers(0, 5),
        st.integers(0, 2),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_whatever_happens_every_holder_has_the_text_that_it_wrote(
    actions: list[tuple[str, int, int]],
) -> None:
    """Against a plain copy: what each page holds is what its holders think it holds."""
    pages, content = Pages(12), {}  # type: ignore[var-annotated]
    rows: list[tuple[list[int], list[int]]] = []  # pages, and a number for what each holds
    for action, which, kind in actions:
        if action == "begin":
            wanted = [kind, which % 2, kind]
            found = pages.find(text(*wanted))
            for page in found:
                pages.hold(page)
            rows.append((found, wanted[: len(found)]))
        elif action == "forget":
            pages.forget_idle()
        elif rows:
            held, wrote = rows[which % len(rows)]
            if action == "write" and len(held) < 3:
                page = pages.take(held[-1] if held else 0)
                if page is not None:
                    assert all(page not in own for own, _ in rows)
                    content[page] = kind
                    held.append(page)
                    wrote.append(kind)
                    pages.learn(held, text(*wrote))
            elif action == "share":
                for page in held:
                    pages.hold(page)
                rows.append((list(held), list(wrote)))
            elif action == "write" and held:  # rewound, and another text is written
                last = held[-1]
                if pages.own(last):
                    assert sum(last in own for own, _ in rows) == 1
                    content[last] = wrote[-1] = kind + 10
            else:
                rows.remove((held, wrote))
                for page in reversed(held):
                    pages.drop(page)
        for held, wrote in rows:
            assert [content[page] for page in held] == wrote
        assert pages.held == len({page for held, _ in rows for page in held})
        assert pages.held + pages.available == pages.count - 1
