"""Paths to routes: what is written otherwise is another path, and no scope is gained by it."""

from __future__ import annotations

import pytest

from service.access import TABLE, find


@pytest.mark.parametrize(
    ("method", "path", "template", "need", "parameters"),
    [
        ("POST", "/classify", "/classify", "predict", ()),
        ("HEAD", "/models", "/models", "predict", ()),
        ("GET", "/models/birds", "/models/{name}", "predict", ("birds",)),
        ("GET", "/models/birds/", "/models/{name}", "predict", ("birds",)),
        ("GET", "/models/birds/versions/3/report", "/models/{name}/versions/{version}/report", "explain", ("birds", "3")),
        ("POST", "/models/birds/promote", "/models/{name}/promote", "promote", ("birds",)),
        ("PUT", "/models/birds/holdout", "/models/{name}/holdout", "admin", ("birds",)),
        ("DELETE", "/datasets/birds", "/datasets/{name}", "train", ("birds",)),
        ("GET", "/v2", "/v2", "predict", ()),
        ("GET", "/v2/health/ready", "/v2/health/ready", "open", ()),
        ("POST", "/v2/models/birds/infer", "/v2/models/{name}/infer", "predict", ("birds",)),
        ("POST", "/v2/models/birds/versions/3/infer", "/v2/models/{name}/versions/{version}/infer", "predict", ("birds", "3")),
        ("GET", "/v2/models/birds/infer", "/v2/models/{name}/infer", None, ("birds",)),
        ("GET", "/static_content/swagger-ui.css", "/static_content/{file:path}", "open", ("swagger-ui.css",)),
        ("GET", "/", "/", "open", ()),
        ("GET", "//", "/", "open", ()),
        ("PATCH", "/models/birds", "/models/{name}", None, ("birds",)),
    ],
)
def test_path_is_a_route(method: str, path: str, template: str, need: str | None, parameters: tuple[str, ...]) -> None:
    found = find(method, path)
    assert found is not None
    assert (found.template, found.need, found.parameters) == (template, need, parameters)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "retrain",
        "/Retrain",
        "//retrain",
        "/retrain\n",
        "/retrain\x00",
        "/retrain;x",
        "/./retrain",
        "/x/../retrain",
        "/retrain/x",
        "/models//promote",
        "/models/a/promote\n",
        "/models/a\n/promote",
        "/models/a/b/promote",
        "/static_content",
        "/static_content/../retrain",
        "/v2/models/..",
        "/v2/models/birds/load",
        "/v2/repository/models/birds/load",
        "/models/..",
        "/v2/models/a\n",
    ],
)
def test_what_is_written_otherwise_is_no_route(path: str) -> None:
    assert find("POST", path) is None


def test_only_what_changes_something_is_a_mutation() -> None:
    mutations = {
        f"{method} {template}"
        for template, needs in TABLE.items()
        for method in needs
        if (found := find(method, template.replace(":path", ""))) is not None and found.is_mutation
    }
    assert mutations == {
        "POST /retrain",
        "POST /jobs/{job_id}/cancel",
        "PUT /datasets/{name}",
        "DELETE /datasets/{name}",
        "POST /feedback",
        "DELETE /feedback/{image_id}",
        "POST /models/{name}/promote",
        "POST /models/{name}/rollback",
        "PUT /models/{name}/holdout",
    }


def test_unknown_method_is_no_mutation_and_says_what_there_is() -> None:
    found = find("PATCH", "/datasets/birds")
    assert found is not None
    assert (found.is_mutation, found.allowed) == (False, ("GET", "PUT", "DELETE"))
