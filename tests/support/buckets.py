"""An S3 server on loopback: moto's, which keeps the If-None-Match that the registry is built on."""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from tests.support.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET, REGION = "test", "test", "us-east-1"


class Bucket:
    """An empty bucket. The server can go away and come back, with what was in it."""

    def __init__(self, *, overwrites: bool = False) -> None:
        """`overwrites` makes it one of the stores that know no If-None-Match."""
        self._overwrites = overwrites
        # The methods that are answered with 403, as a policy does.
        self.refused: set[str] = set()
        # What moto keeps is the process's, so that every server has the buckets of all.
        self.name = f"candor-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = f"s3://{self.name}/registry"
        self._server: ThreadedMotoServer | None = None
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        application = self._server._server.app

        def guarded(environ: dict[str, Any], answer: Any) -> Any:
            if environ["REQUEST_METHOD"] in self.refused:
                answer("403 Forbidden", [("Content-Length", "0")])
                return []
            if self._overwrites:
                environ = {key: value for key, value in environ.items() if key != "HTTP_IF_NONE_MATCH"}
            return application(environ, answer)

        self._server._server.app = guarded

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    @contextmanager
    def trickling(self, path: str) -> Iterator[None]:
        """An object below `path` comes at a byte a second until this ends; all others come as ever."""
        assert self._server is not None
        server, let_go = self._server._server, threading.Event()
        application = server.app

        def answer(environ: dict[str, Any], start: Any) -> Any:
            parts = application(environ, start)
            return trickle(b"".join(parts)) if path in environ["PATH_INFO"] else parts

        def trickle(body: bytes) -> Iterator[bytes]:
            sent = 0
            while sent < len(body) and not let_go.wait(1):
                yield body[sent : sent + 1]
                sent += 1
            yield body[sent:]

        server.app = answer
        try:
            yield
        finally:
            server.app = application
            let_go.set()

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(retries={"max_attempts": 0}),
        )

    def keys(self, prefix: str) -> list[str]:
        """The objects below a prefix, without it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", []))

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def remove(self) -> None:
        """The bucket and all that is in it."""
        keys = [{"Key": key} for key in self.keys("")]
        for start in range(0, len(keys), 1000):
            self.client.delete_objects(Bucket=self.name, Delete={"Objects": keys[start : start + 1000]})
        self.client.delete_bucket(Bucket=self.name)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@contextmanager
def s3(*, overwrites: bool = False) -> Iterator[Bucket]:
    """A bucket, and the environment in which it is found."""
    bucket = Bucket(overwrites=overwrites)
    bucket.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("AWS_ENDPOINT_URL", bucket.endpoint),
                ("AWS_ACCESS_KEY_ID", KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
                ("AWS_REGION", REGION),
            ):
                patch.setenv(name, value)
            bucket.client.create_bucket(Bucket=bucket.name)
            try:
                yield bucket
            finally:
                bucket.refused = set()
                bucket.stop()
                bucket.start()
                bucket.remove()
    finally:
        bucket.stop()


@contextmanager
def silent(port: int) -> Iterator[None]:
    """A server that takes connections and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port)) as listener:

        def hold() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()
            thread.join(5)
