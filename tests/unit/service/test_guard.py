"""The layer over every route, around an application that only it can tell from the real one."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service.audit import REFUSALS_PER_MINUTE, note
from service.errors import QueueFullError
from service.guard import Guard
from service.logs import key_id, request_id
from tests.support.guarded import Engine

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send


PROMOTE = "/models/birds/promote"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def call(
    app: Any,
    engine: Engine,
    *,
    server: str = "127.0.0.1",
    method: str = "POST",
    path: str = "/classify",
    body: bytes = b"",
    key: str | None = None,
    streamed: bool = False,
    **headers: str,
) -> Any:
    sent: list[dict[str, Any]] = []
    given = {"host": "localhost:3000", **({} if key is None else {"x-api-key": key}), **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "server": (server, 3000), "client": ("10.1.2.3", 9)}
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(app, engine, lambda _: streamed)(scope, receive, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent].count("http.response.start") == 1
    text = b"".join(message.get("body", b"") for message in sent[1:])
    problem = json.loads(text) if sent[0]["status"] >= 400 else {}
    return SimpleNamespace(
        status=sent[0]["status"],
        headers=dict(sent[0]["headers"]),
        body=text,
        code=problem.get("code"),
        detail=problem.get("detail"),
        received=received,
    )


async def good(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"yes"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret")


async def plain_error(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 405, "headers": [(b"content-type", b"text/plain"), (b"allow", b"GET")]})
    await send({"type": "http.response.body", "body": b"Method Not Allowed"})


async def promoting(scope: Scope, receive: Receive, send: Send) -> None:
    # Nor may a handler say what the guard knows.
    note(from_version=1, to_version=2, key="another")
    await good(scope, receive, send)


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the application was reached")


def test_good_answer_is_passed_on_with_a_request_id(engine: Engine) -> None:
    answer = call(good, engine)
    assert (answer.status, answer.body) == (200, b"yes")
    assert len(answer.headers[b"x-request-id"]) == 32


def test_plain_error_becomes_one_problem_and_keeps_allow(engine: Engine) -> None:
    answer = call(plain_error, engine)
    assert answer.status == 405
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert answer.headers[b"allow"] == b"GET"
    assert b"Method Not Allowed" in answer.body
    assert answer.body.count(b"{") == 1


def test_exception_is_a_500_that_reveals_nothing_and_a_log_line_with_the_id(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = call(failing, engine, x_request_id="abc-7")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "request abc-7 failed" in caplog.text
    assert request_id.get() == "-"


def test_clients_of_the_open_inference_protocol_find_what_is_wrong_where_they_look_for_it(engine: Engine) -> None:
    for path in ("/v2", "/v2/nope", "/v2/models/birds/infer"):
        for app in (failing, plain_error, never):
            answer = call(app, engine, path=path, method="PATCH" if app is never else "POST")
            problem = json.loads(answer.body)
            assert answer.status >= 400
            assert problem["error"] == problem["detail"]
    for path in ("/classify", "/v2x", "/models/v2"):
        assert "error" not in json.loads(call(plain_error, engine, path=path, method="PATCH").body)
    engine.key("explain")
    refused = json.loads(call(never, engine, path="/v2/models/birds/infer").body)
    assert (refused["code"], refused["error"]) == ("unauthenticated", refused["detail"])


def test_bodies_in_memory_are_bounded_together_and_given_back(engine: Engine) -> None:
    assert call(good, engine, body=b"x" * 100).status == 200
    engine.budget.take(60)
    refused = call(good, engine, body=b"x" * 41)
    assert refused.status == 429
    assert refused.headers[b"retry-after"] == b"1"
    assert call(good, engine, body=b"x" * 40).status == 200
    with pytest.raises(QueueFullError, match="60 bytes of requests are being answered, and at most 100 may"):
        engine.budget.take(41)
    assert call(good, engine, body=b"x" * 1000, streamed=True).status == 200
    engine.budget.take(40)


OPEN = {"allow_unauthenticated": "predict"}
WIDE = {"host": "0.0.0.0"}


@pytest.mark.parametrize(
    ("server", "method", "path", "host", "settings", "expected"),
    [
        ("127.0.0.1", "POST", "/classify", "localhost:3000", {}, 200),
        ("127.0.0.1", "POST", PROMOTE, "localhost:3000", {}, 200),
        ("127.0.0.1", "POST", "/classify", "evil.example", {}, "unknown_host"),
        ("127.0.0.1", "POST", "/classify", "candor.example", {"allowed_hosts": ("candor.example",)}, 200),
        ("127.0.0.1", "POST", "/nope", "localhost:3000", {}, "not_found"),
        ("127.0.0.1", "PATCH", "/classify", "localhost:3000", {}, "method_not_allowed"),
        # `bentoml serve` listens on every address unless told otherwise.
        ("10.0.0.5", "POST", "/classify", "10.0.0.5:3000", {}, "not_allowed"),
        ("10.0.0.5", "POST", "/nope", "10.0.0.5:3000", {}, "not_allowed"),
        ("10.0.0.5", "GET", "/readyz", "10.0.0.5:3000", {}, 200),
        ("10.0.0.5", "GET", "/docs", "10.0.0.5:3000", {}, 200),
        ("10.0.0.5", "POST", "/classify", "anything", OPEN, 200),
        ("10.0.0.5", "POST", "/explain-confidence", "anything", OPEN, 200),
        ("10.0.0.5", "GET", "/models/birds", "anything", OPEN, 200),
        ("10.0.0.5", "GET", "/metrics", "anything", OPEN, "not_allowed"),
        ("10.0.0.5", "GET", "/jobs", "anything", OPEN, "not_allowed"),
        ("10.0.0.5", "POST", "/retrain", "anything", OPEN, "not_allowed"),
        ("10.0.0.5", "POST", PROMOTE, "anything", OPEN, "not_allowed"),
        ("10.0.0.5", "PUT", "/models/birds/holdout", "anything", OPEN, "not_allowed"),
        # A proxy beside a service that others can reach asks from loopback.
        ("127.0.0.1", "POST", "/retrain", "anything", {**OPEN, **WIDE}, "not_allowed"),
        ("127.0.0.1", "POST", "/classify", "anything", {**OPEN, **WIDE}, 200),
    ],
)
def test_who_may_ask_without_keys(
    tmp_path: Path, server: str, method: str, path: str, host: str, settings: dict[str, Any], expected: int | str
) -> None:
    app = good if expected == 200 else never
    answer = call(app, Engine(tmp_path, **settings), server=server, method=method, path=path, host=host)
    assert answer.status == 200 if expected == 200 else answer.code == expected


def test_token_means_nothing_where_there_are_no_keys(engine: Engine) -> None:
    assert call(good, engine, authorization="Bearer whatever").status == 200


@pytest.mark.parametrize("server", ["127.0.0.1", "10.0.0.5"])
def test_with_keys_every_address_needs_one(engine: Engine, server: str) -> None:
    token = engine.key("predict", name="reader")
    refused = call(never, engine, server=server, body=b"x")
    assert (refused.status, refused.code) == (401, "unauthenticated")
    assert refused.headers[b"www-authenticate"] == b'Bearer realm="candor"'
    assert "POST /classify needs a key with scope predict" in refused.detail
    # Not a byte of the body was asked for.
    assert refused.received == 0
    for header in ({"authorization": f"Bearer {token}"}, {"authorization": f"bearer  {token}"}, {"x_api_key": token}):
        assert call(good, engine, server=server, **header).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer candor_" + "A" * 43},
        {"authorization": "Bearer "},
        {"x_api_key": ""},
        {"x_api_key": "\u00fc"},
        {"authorization": "Basic Y2k6Y2k="},
    ],
)
def test_what_is_no_key_is_refused_before_the_body(engine: Engine, headers: dict[str, str]) -> None:
    engine.key("admin")
    refused = call(never, engine, body=b"x", **headers)
    assert (refused.status, refused.received) == (401, 0)


def test_our_header_wins_over_one_that_may_be_for_a_gateway(engine: Engine) -> None:
    token = engine.key("predict")
    assert call(good, engine, authorization="Bearer theirs", x_api_key=token).status == 200
    assert call(never, engine, authorization=f"Bearer {token}", x_api_key="theirs").status == 401


def test_train_cannot_promote_and_is_told_so(engine: Engine) -> None:
    token = engine.key("train", "predict", name="ci")
    assert call(good, engine, path="/retrain", key=token).status == 200
    refused = call(never, engine, path=PROMOTE, key=token)
    assert (refused.status, refused.code) == (403, "missing_scope")
    assert refused.detail == "POST /models/{name}/promote needs scope promote, and the key ci has train, predict"
    assert call(good, engine, path=PROMOTE, key=engine.key("admin")).status == 200


def test_unknown_path_needs_a_key_and_then_is_not_there(engine: Engine) -> None:
    token = engine.key("metrics")
    assert call(never, engine, path="/nope").code == "unauthenticated"
    assert call(never, engine, path="/nope", key=token).code == "not_found"
    wrong = call(never, engine, method="DELETE", path="/classify", key=token)
    assert (wrong.code, wrong.headers[b"allow"]) == ("method_not_allowed", b"POST")


def test_unauthenticated_prediction_may_stand_beside_keys(tmp_path: Path) -> None:
    engine = Engine(tmp_path, **OPEN, **WIDE)
    token = engine.key("train")
    assert call(good, engine, server="10.0.0.5").status == 200
    assert call(never, engine, server="10.0.0.5", path="/retrain").code == "unauthenticated"
    assert call(good, engine, server="10.0.0.5", path="/retrain", key=token).status == 200
    # Who shows a key is that key.
    assert call(never, engine, server="10.0.0.5", key=token).code == "missing_scope"
    assert call(never, engine, server="10.0.0.5", key="candor_x").code == "unauthenticated"


def test_refusals_are_counted_by_reason_and_nothing_of_the_callers(engine: Engine) -> None:
    token = engine.key("train")
    for number in range(20):
        call(never, engine, path=f"/{number}")
        call(never, engine, key=f"candor_{number}")
    call(never, engine, path=PROMOTE, key=token)
    shown = engine.metrics.render().decode()
    assert 'candor_auth_failures_total{reason="no_key"} 20.0' in shown
    assert 'candor_auth_failures_total{reason="unknown_key"} 20.0' in shown
    assert 'candor_auth_failures_total{reason="missing_scope"} 1.0' in shown
    assert 'candor_requests_total{method="POST",route="unmatched",status="401"} 20.0' in shown
    assert 'candor_requests_total{method="POST",route="/models/{name}/promote",status="403"} 1.0' in shown


def test_key_that_changes_too_much_is_told_when_to_try_again(tmp_path: Path) -> None:
    engine = Engine(tmp_path, mutations_per_minute=2)
    token = engine.key("promote", "predict", name="ci")
    assert [call(good, engine, path=PROMOTE, key=token).status for _ in range(2)] == [200, 200]
    refused = call(never, engine, path=PROMOTE, key=token)
    assert (refused.status, refused.code, refused.headers[b"retry-after"]) == (429, "rate_limited", b"30")
    assert "the key ci may change 2 things a minute" in refused.detail
    # Neither inference nor another key is held up.
    assert call(good, engine, key=token).status == 200
    assert 'candor_shed_total{reason="rate_limited"} 1.0' in engine.metrics.render().decode()


def test_every_mutation_is_one_line_and_nothing_else_is(engine: Engine) -> None:
    token = engine.key("promote", "predict", name="ci")
    call(promoting, engine, path=PROMOTE, key=token, x_request_id="r-1")
    call(good, engine, key=token)
    call(good, engine, method="GET", path="/models", key=token)
    (line,) = engine.audited()
    line.pop("time")
    assert line == {
        "action": "POST /models/{name}/promote",
        "object": "birds",
        "result": "done",
        "status": 200,
        "key": "ci",
        "client": "10.1.2.3",
        "request_id": "r-1",
        "from_version": 1,
        "to_version": 2,
    }


def test_refused_and_failed_mutations_are_on_record_with_whose_they_were(tmp_path: Path) -> None:
    engine = Engine(tmp_path, mutations_per_minute=3)
    token = engine.key("train", name="ci")
    call(never, engine, path="/retrain")
    call(never, engine, path=PROMOTE, key=token)
    call(plain_error, engine, path="/retrain", key=token)
    call(failing, engine, path="/retrain", key=token)
    with pytest.raises(asyncio.CancelledError):
        call(hanging, engine, path="/retrain", key=token)
    call(never, engine, path="/retrain", key=token)
    call(never, engine, path="/retrain", key=token, origin="https://evil.example")
    assert [(line["key"], line["status"], line["result"]) for line in engine.audited()] == [
        (None, 401, "refused"),
        ("ci", 403, "refused"),
        ("ci", 405, "refused"),
        ("ci", 500, "failed"),
        ("ci", None, "cut off"),
        ("ci", 429, "refused"),
        (None, 403, "refused"),
    ]
    assert key_id.get() is None


def test_line_is_on_the_disk_before_the_answer_is_sent(engine: Engine) -> None:
    seen: list[int] = []

    async def looking(scope: Scope, receive: Receive, send: Send) -> None:
        async def before(message: Any) -> None:
            seen.append(len(engine.audited()))
            await send(message)
            seen.append(len(engine.audited()))

        await good(scope, receive, before)

    call(looking, engine, path=PROMOTE)
    assert seen == [0, 1, 1, 1]


def test_refusals_do_not_fill_the_disk_and_are_counted(engine: Engine) -> None:
    token = engine.key("train")
    for _ in range(REFUSALS_PER_MINUTE + 50):
        assert call(never, engine, path="/retrain").status == 401
    # Whoever has a key is on record all the same.
    call(good, engine, path="/retrain", key=token)
    lines = engine.audited()
    assert len(lines) == REFUSALS_PER_MINUTE + 1
    assert lines[-1]["status"] == 200
    engine.clock += 1
    call(never, engine, path="/retrain")
    call(never, engine, path="/retrain")
    assert [line.get("left_out") for line in engine.audited()[-2:]] == [50, None]


def audit_failures(engine: Engine) -> float:
    return float(engine.metrics.registry.get_sample_value("candor_audit_failures_total") or 0)


def test_nothing_is_changed_while_it_cannot_be_audited(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    (engine.home / "audit.jsonl").mkdir()
    with caplog.at_level(logging.ERROR):
        refused = call(never, engine, path=PROMOTE)
    assert (refused.status, refused.code, refused.headers[b"retry-after"]) == (503, "not_audited", b"30")
    assert "the audit log cannot be written (Is a directory)" in caplog.text
    failures = audit_failures(engine)
    assert failures >= 1
    # What changes nothing goes on, and a refusal stays one.
    assert call(good, engine).status == 200
    engine.key("predict")
    assert call(never, engine, path=PROMOTE).status == 401
    assert audit_failures(engine) > failures


def test_change_that_could_not_be_recorded_is_not_acknowledged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def losing_its_log(scope: Scope, receive: Receive, send: Send) -> None:
        (engine.home / "audit.jsonl").unlink()
        (engine.home / "audit.jsonl").mkdir()
        await promoting(scope, receive, send)

    with caplog.at_level(logging.ERROR):
        answer = call(losing_its_log, engine, path=PROMOTE, x_request_id="r-9")
    assert (answer.status, answer.code) == (503, "not_audited")
    assert audit_failures(engine) == 1
    assert b"yes" not in answer.body
    # The log of the service has what the audit log lacks.
    assert "'to_version': 2" in caplog.text
    assert "r-9" in caplog.text


def test_websocket_is_refused(engine: Engine) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/classify", "headers": []}
    asyncio.run(Guard(never, engine, lambda _: False)(scope, receive, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]
