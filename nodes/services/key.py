"""KeyService: the province's admins lead its attestation keys through their lives."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import structlog

from exchange import views
from exchange.errors import StoreUnavailableError
from exchange.keys import Algorithm
from exchange.v1 import key_service_pb2 as pb
from nodes.audit.entries import Entry, Recorder
from nodes.call import Call
from nodes.keysteps import ByKind, Count, Done, KeySteps
from nodes.services.acts import whole

__all__ = ["KeyService"]

log = structlog.get_logger(__name__)

_COUNT_SECONDS = 5.0
"""How long an answer about what has been done already waits for its numbers."""


class KeyService:
    """Translates; `nodes.keysteps.KeySteps` does it, and says who may not.

    A step that was taken and could not be recorded answers AuditUnavailableError: it is taken all
    the same, since a stolen key must be ended whatever else fails; `list_keys` shows it.
    """

    descriptor = pb.DESCRIPTOR.services_by_name["KeyService"]

    def __init__(self, steps: KeySteps, audit: Recorder) -> None:
        self._steps = steps
        self._audit = audit

    async def list_keys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        """The keys, and how many attestations each holds up."""
        del request, call
        profile, versions = self._steps.profile(), self._steps.versions()
        done = Done(profile, profile)
        try:
            count = await self._steps.count(profile, profile)
        except StoreUnavailableError as error:
            # Whoever ends a stolen key must find it, whatever else is down.
            log.warning("key.not_counted", why=str(error))
            count = Count()
        return pb.ListKeysResponse(
            keys=self._keys(done, count), trust=views.versions_to_proto(versions)
        )

    async def prepare_key(self, request: pb.PrepareKeyRequest, call: Call) -> pb.PrepareKeyResponse:
        """Make a key, and publish it."""
        dry = request.validate_only
        algorithm = Algorithm[request.algorithm or Algorithm.ES256.name]
        taking = self._steps.prepare(algorithm, by=call.caller.uri, dry=dry)
        done = await self._taken(taking, call, "PrepareKey")
        kid = "" if dry or done.public is None else done.public.kid.hex()
        return pb.PrepareKeyResponse(step=await self._step(done), kid=kid)

    async def activate_key(
        self, request: pb.ActivateKeyRequest, call: Call
    ) -> pb.ActivateKeyResponse:
        """Sign with a prepared key from now on."""
        taking = self._steps.activate(
            request.kid, by=call.caller.uri, force=request.force, dry=request.validate_only
        )
        how = "forced" if request.force else ""
        done = await self._taken(taking, call, "ActivateKey", request.kid, how)
        return pb.ActivateKeyResponse(step=await self._step(done))

    async def retire_key(self, request: pb.RetireKeyRequest, call: Call) -> pb.RetireKeyResponse:
        """Take a key out of the list."""
        taking = self._steps.retire(
            request.kid, by=call.caller.uri, force=request.force, dry=request.validate_only
        )
        how = "forced" if request.force else ""
        done = await self._taken(taking, call, "RetireKey", request.kid, how)
        return pb.RetireKeyResponse(step=await self._step(done))

    async def taint_key(self, request: pb.TaintKeyRequest, call: Call) -> pb.TaintKeyResponse:
        """Let nothing count that a key signed from a time on."""
        at = None
        if request.HasField("from_time"):
            at = views.time_from_proto(request.from_time, field="from_time")
        taking = self._steps.taint(
            request.kid,
            at,
            by=call.caller.uri,
            emergency=request.emergency,
            dry=request.validate_only,
        )
        how = "emergency" if request.emergency else ""
        done = await self._taken(taking, call, "TaintKey", request.kid, how)
        return pb.TaintKeyResponse(step=await self._step(done))

    async def revoke_key(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:
        """End a key and all that it signed."""
        taking = self._steps.revoke(
            request.kid,
            by=call.caller.uri,
            emergency=request.emergency,
            dry=request.validate_only,
        )
        how = "emergency" if request.emergency else ""
        done = await self._taken(taking, call, "RevokeKey", request.kid, how)
        return pb.RevokeKeyResponse(step=await self._step(done))

    @whole
    async def _taken(
        self,
        taking: Coroutine[Any, Any, Done],
        call: Call,
        method: str,
        kid: str = "",
        how: str = "",
    ) -> Done:
        """Take a step, and record it.

        :param kid: "" for the new key's.
        """
        done = await taking
        if done.trust_version:  # else it was only tried
            if not kid and done.public is not None:
                kid = done.public.kid.hex()
            words = f"trust list {done.trust_version}{how and f', {how}'}"
            self._audit.record(Entry(call.caller.uri, method, call.request_id, words, target=kid))
        return done

    async def _step(self, done: Done) -> pb.KeyStep:
        count = await self._counted(done)
        return pb.KeyStep(
            keys=self._keys(done, count),
            ends=_by_kind(count.ends),
            trust_version=done.trust_version,
            behind={province: version or 0 for province, version in done.behind.items()},
        )

    async def _counted(self, done: Done) -> Count:
        """Count what a step ends; one that is done must not seem to have failed of its numbers."""
        if not done.trust_version:
            return await self._steps.count(done.before, done.after)
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                return await self._steps.count(done.before, done.after)
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("key.not_counted", why=str(error) or "it takes too long")
            return Count()

    def _keys(self, done: Done, count: Count) -> Iterator[pb.Key]:
        for key in done.after.keys:
            # A key that was only made to try has no name yet.
            tried = not done.trust_version and key.public == done.public
            yield pb.Key(
                kid="" if tried else key.public.kid.hex(),
                algorithm=key.public.algorithm.name,
                state=f"KEY_STATE_{key.state}",
                since_time=views.time_to_proto(key.since),
                held=self._steps.holds(key),
                live=_by_kind(count.live.get(key.public.kid, {})),
            )


def _by_kind(numbers: ByKind) -> Iterator[pb.KindCount]:
    for kind, number in sorted(numbers.items()):
        yield pb.KindCount(kind=f"KIND_{kind}", count=number)
