"""Slots and memory of requests: an account that always comes out even."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.server.limits import RequestLimits


def test_a_full_house_says_when_to_come_back():
    limits = RequestLimits(2, 100, lambda: 1.6)
    with limits.take_slot(), limits.take_slot():
        with pytest.raises(RequestError) as caught:
            limits.take_slot()
        assert caught.value.status == 503 and caught.value.headers == {'Retry-After': '4'}  # 2 x 1.6 s, rounded up
    assert limits.in_flight == limits.arriving == 0
    with limits.take_slot():
        pass


def test_what_is_too_much_alone_is_no_question_of_time():
    limits = RequestLimits(2, 100)
    with limits.take_slot() as slot, pytest.raises(RequestError) as caught:
        slot.hold(101)
    assert caught.value.status == 413 and 'Retry-After' not in caught.value.headers


def test_what_is_too_much_together_is():
    limits = RequestLimits(3, 100)
    with limits.take_slot() as one, limits.take_slot() as two:
        one.hold(70)
        with pytest.raises(RequestError) as caught:
            two.hold(31)
        assert caught.value.status == 503 and limits.held_bytes == 70
        one.hold(10)  # instead of 70, not beside it
        two.hold(90)
        assert limits.held_bytes == 100
    assert limits.held_bytes == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(['take', 'hold', 'queue', 'leave']), st.integers(0, 5), st.integers(0, 120)),
        max_size=40,
    )
)
def test_any_order_of_events_comes_out_even(events):
    limits, slots, holds = RequestLimits(4, 300), [], []
    for what, which, size in events:
        try:
            if what == 'take':
                slots.append(limits.take_slot())
                holds.append(0)
            elif slots and what == 'hold':
                slots[which % len(slots)].hold(size)
                holds[which % len(slots)] = size
            elif slots and what == 'queue':
                slots[which % len(slots)].queued()
            elif slots and what == 'leave':
                slots.pop(which % len(slots)).__exit__()
                holds.pop(which % (len(slots) + 1))
        except RequestError as error:
            assert error.status == 503
        assert limits.in_flight == len(slots) <= 4
        assert limits.held_bytes == sum(holds) <= 300
        assert 0 <= limits.arriving <= limits.in_flight
