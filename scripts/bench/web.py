"""The lookup as a team would build it instead: FastAPI, JSON, the `redis` pool.

It runs in the benchmarks' own environment (`peers.VENV`), not in the project's.
"""

from __future__ import annotations

import base64
import os

import redis.asyncio
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
store = redis.asyncio.Redis.from_url(os.environ["VALKEY_URL"])


class Lookup(BaseModel):
    """Subject tokens in Base64."""

    subject_tokens: list[str]


class Subject(BaseModel):
    """Signed attestations in Base64."""

    signed_attestations: list[str]


class Found(BaseModel):
    """For each token, what its subject has."""

    subjects: list[Subject]


@app.post("/attestations")
async def attestations(lookup: Lookup) -> Found:
    """Look up by token."""
    subjects = []
    for token in lookup.subject_tokens:
        signed = await store.hvals(b"s:{%b}" % base64.b64decode(token))
        subjects.append(Subject(signed_attestations=[base64.b64encode(s).decode() for s in signed]))
    return Found(subjects=subjects)
