"""Jobs over a registry in an object store, which goes away at the worst moments."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from models.object_store import PAUSE_S
from models.open_registry import open_registry
from tests.support.buckets import s3
from tests.support.jobs import workshop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fault


def test_a_candidate_waits_for_its_promotion_until_the_store_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with s3() as bucket, workshop(tmp_path, place=bucket.url) as shop:
        job = shop.submit()
        shop.step_until(lambda: shop.job(job).state == "publishing")
        bucket.stop()
        with caplog.at_level(logging.INFO):
            until = time.monotonic() + PAUSE_S + 1
            while time.monotonic() < until:
                shop.supervisor.step()
                assert shop.job(job).state == "publishing"
        assert [record.message.partition(":")[0] for record in caplog.records if record.levelno >= logging.WARNING] == ["s3"]
        bucket.start()
        done = shop.finish(job)
        assert (done.state, done.version, done.is_promoted) == ("succeeded", 1, True)
        assert open_registry(bucket.url, tmp_path / "another").resolve("birds") == ("birds", 1)
