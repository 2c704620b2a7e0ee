"""Slots and memory of requests: an account that always comes out even."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.deployment.server.admission import Admission
from mmdefect.deployment.server.refusals import Refusal


def test_a_full_house_says_when_to_come_back():
    admission = Admission(2, 100, lambda: 1.6)
    with admission.admit(), admission.admit():
        with pytest.raises(Refusal) as refused:
            admission.admit()
        assert refused.value.status == 503 and refused.value.headers == {'Retry-After': '4'}  # 2 x 1.6 s, rounded up
    assert admission.in_flight == admission.arriving == 0
    with admission.admit():
        pass


def test_what_is_too_much_alone_is_no_question_of_time():
    admission = Admission(2, 100)
    with admission.admit() as ticket, pytest.raises(Refusal) as refused:
        ticket.hold(101)
    assert refused.value.status == 413 and 'Retry-After' not in refused.value.headers


def test_what_is_too_much_together_is():
    admission = Admission(3, 100)
    with admission.admit() as one, admission.admit() as two:
        one.hold(70)
        with pytest.raises(Refusal) as refused:
            two.hold(31)
        assert refused.value.status == 503 and admission.held_bytes == 70
        one.hold(10)  # instead of 70, not beside it
        two.hold(90)
        assert admission.held_bytes == 100
    assert admission.held_bytes == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(['admit', 'hold', 'queue', 'leave']), st.integers(0, 5), st.integers(0, 120)),
        max_size=40,
    )
)
def test_any_order_of_events_comes_out_even(events):
    admission, tickets, holds = Admission(4, 300), [], []
    for what, which, size in events:
        try:
            if what == 'admit':
                tickets.append(admission.admit())
                holds.append(0)
            elif tickets and what == 'hold':
                tickets[which % len(tickets)].hold(size)
                holds[which % len(tickets)] = size
            elif tickets and what == 'queue':
                tickets[which % len(tickets)].queued()
            elif tickets and what == 'leave':
                tickets.pop(which % len(tickets)).__exit__()
                holds.pop(which % (len(tickets) + 1))
        except Refusal as refusal:
            assert refusal.status == 503
        assert admission.in_flight == len(tickets) <= 4
        assert admission.held_bytes == sum(holds) <= 300
        assert 0 <= admission.arriving <= admission.in_flight
