from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rtl_continual.tickets import LazyTickets, Ticket, TicketBank
from rtl_continual.tickets._lazy import ByteCache, ticket_bytes


def test_the_least_recently_used_value_leaves_first() -> None:
    cache: ByteCache[str] = ByteCache(6, len)
    for key, value in ((1, "aa"), (2, "bb"), (3, "cc")):
        assert cache.get(key, lambda value=value: value) == value
    assert cache.used == 6
    assert cache.get(1, lambda: pytest.fail("it is there")) == "aa"
    cache.get(4, lambda: "dddd")
    assert list(cache) == [1, 4]
    assert cache.used == 6
    assert 2 not in cache


def test_the_newest_value_stays_however_large() -> None:
    cache: ByteCache[str] = ByteCache(3, len)
    cache.get(1, lambda: "a")
    cache.get(2, lambda: "much too long")
    assert list(cache) == [2]
    assert len(cache) == 1


def test_others_can_be_had_while_one_is_made() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    cache.get(1, lambda: "a")
    started, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def slowly() -> str:
        started.set()
        assert go_on.wait(60)
        made.append("b")
        return "b"

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get, 2, slowly)
        assert started.wait(60)
        second = pool.submit(cache.get, 2, slowly)
        assert pool.submit(cache.get, 1, lambda: "z").result(60) == "a"
        assert pool.submit(cache.get, 3, lambda: "c").result(60) == "c"
        go_on.set()
        assert (first.result(60), second.result(60), made) == ("b", "b", ["b"])
    assert cache.used == 3


def test_a_value_that_could_not_be_made_is_tried_again() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: str(1 // 0))
    assert cache.get(1, lambda: "a") == "a"
    assert cache.used == 1


def test_a_copy_starts_empty() -> None:
    cache: ByteCache[str] = ByteCache(10, len)
    cache.get(1, lambda: "a")
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (len(other), other.used, other.budget) == (0, 0, 10)


def test_tickets_are_read_when_asked_for(bank: TicketBank) -> None:
    read: list[int] = []

    def note(ticket_id: int) -> Ticket:
        read.append(ticket_id)
        return bank[ticket_id]

    lazy = LazyTickets(bank.names, note, cache_bytes=ticket_bytes(bank[0]))
    other = TicketBank(bank.backbone, bank.task, bank.router, tickets=lazy)
    assert len(other) == 3
    assert other.names == bank.names
    assert read == []
    assert other[1] is bank[1]
    assert other[1] is bank[1]
    assert read == [1]
    assert list(other) == list(bank)
    assert read == [1, 0, 1, 2]  # one fits into the cache
    assert other.tickets == bank.tickets


def test_new_tickets_follow_those_that_are_read(
    bank: TicketBank, make_ticket: Callable[..., Ticket]
) -> None:
    lazy = LazyTickets(bank.names, bank.__getitem__)
    other = TicketBank(bank.backbone, bank.task, bank.router, tickets=lazy)
    ticket = make_ticket(other)
    other.append(ticket)
    assert other.names[-1] == "ticket-3"
    assert [ticket.id for ticket in other] == [0, 1, 2, 3]
    assert other[3] is ticket
    assert len(bank) == 3
