"""FastAPI as most people serve a model with it: an endpoint in the thread pool, a thread a core, no batching."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
import uvicorn
from fastapi import Body, FastAPI

from benchmarks.peers.core import HOST, Answer, classifier, cores, port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    # FastAPI's 40 threads would only take turns on the cores, and make every request wait for all others.
    anyio.to_thread.current_default_thread_limiter().total_tokens = cores()
    yield


app = FastAPI(lifespan=_lifespan)
# A thread a request and a request a core: more threads inside a session would only compete with them.
_classifier = classifier(threads=1)


@app.post("/classify")
def classify(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> Answer:
    """Classify the JPEG that is the body."""
    return _classifier.predict(_classifier.decode(image)[None])[0]


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=port(), loop="uvloop", http="httptools", access_log=False)
