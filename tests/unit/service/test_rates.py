"""Token buckets, by a clock that is moved by hand."""

from __future__ import annotations

import pytest

from service.rates import Bucket, Buckets


def test_minutes_worth_at_once_and_then_as_it_fills() -> None:
    now = [0.0]
    bucket = Bucket(120, lambda: now[0])
    assert [bucket.take() for _ in range(120)] == [0.0] * 120
    assert bucket.take() == pytest.approx(0.5)
    now[0] += 0.25
    assert bucket.take() == pytest.approx(0.25)
    now[0] += 0.25
    assert bucket.take() == 0.0
    assert bucket.take() == pytest.approx(0.5)


def test_bucket_never_holds_more_than_a_minutes_worth() -> None:
    now = [0.0]
    bucket = Bucket(2, lambda: now[0])
    now[0] += 3600
    assert [bucket.take() > 0 for _ in range(3)] == [False, False, True]


def test_each_key_has_its_own() -> None:
    buckets = Buckets(1, lambda: 0.0)
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == pytest.approx(60)
    assert buckets.take("b") == 0.0
