"""The tables of serving in `benchmarks/README.md`, rendered from the results file and from nothing else."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = {"fastapi": "FastAPI", "litserve": "LitServe", "mosec": "MOSEC", "ray": "Ray Serve", "bentoml": "BentoML"}


def render(found: dict[str, Any]) -> str:
    """A table of servers, one of everything else, and the line that says where they were measured."""
    return "\n\n".join((_where(found), _servers(found), _more(found)))


def _where(found: dict[str, Any]) -> str:
    setting = found["setting"]
    runtime = setting["libraries"]["onnxruntime-gpu"]
    return (
        f"`tf_efficientnet_lite0` at 224 px, JPEGs of 500x375 pixels, {found['clients']} clients, {setting['cores']} cores of "
        f"{setting['cpu']}, commit `{setting['commit'][:12]}`, ONNX Runtime {runtime} in fp32."
    )


def _servers(found: dict[str, Any]) -> str:
    peers = found["peers"]
    rows = peers["rows"]
    limit = statistics.median(row["limit"] for row in rows)
    ours = [row["candor"] for row in rows]
    lines = [
        ("server", "images/s", "p50 ms", "p99 ms", "candor's images/s as a multiple", "candor's p99 as a multiple"),
        ("the limit, in one process", f"{limit:.1f}", "", "", _ratio(peers["candor_of_limit"]), ""),
        ("candor", *(_median(ours, key) for key in ("images_per_s", "p50_ms", "p99_ms")), "", ""),
    ]
    for name in peers["versions"]:
        theirs = [row["theirs"] for row in rows if row["peer"] == name]
        measured = [_median(theirs, key) for key in ("images_per_s", "p50_ms", "p99_ms")]
        ratios = (_ratio(peers["candor_of_peer"][name]), _ratio(peers["candor_p99_of_peer"][name]))
        lines.append((f"{_SHOWN[name]} {peers['versions'][name]}", *measured, *ratios))
    return _table(lines)


def _more(found: dict[str, Any]) -> str:
    alone, large, flood = found["alone"], found["large"], found["overload"]
    one = statistics.median(row["candor_ms"] for row in alone["rows"])
    return _table(
        [
            ("", "candor"),
            ("one client, p50", f"{one:.1f} ms, {_ratio(alone['more_ms'])} more than the same work in one thread"),
            (
                "12 megapixels, decoding",
                f"{large['candor_ms']} ms, plain Pillow {large['pillow_ms']}: {_ratio(large['times_as_fast'])} times as fast",
            ),
            ("12 megapixels, 16 clients", f"{large['service']['images_per_s']} images/s"),
            (
                f"{flood['offered_per_s']:.0f} requests a second for 30 s, ten times the peak",
                f"{flood['goodput_of_peak']:.0%} of the peak is answered (the load takes {flood['generator_cores']} cores)",
            ),
            ("refusals", f"p50 {flood['refused_p50_ms']} ms, p99 {flood['refused_p99_ms']} ms"),
            ("`/livez` meanwhile, p99", f"{flood['livez_p99_ms']} ms"),
            ("memory meanwhile", f"{flood['memory_more_mb']} MB more"),
            (
                "afterwards",
                f"the last is answered after {flood['recovered_s']} s, then one client has {flood['one_client_after_ms']} ms",
            ),
        ]
    )


def _median(rows: Sequence[dict[str, Any]], key: str) -> str:
    return f"{statistics.median(row[key] for row in rows):.1f}"


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def _table(lines: Sequence[Sequence[str]]) -> str:
    heading, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rows))
