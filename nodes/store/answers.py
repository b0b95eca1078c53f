"""What peers answered, kept until it ends (design.md §8).

``p:{subject}NAME``
    a hash a fingerprint: field = province, value = the answer, each field with its own expiry.

Whether an answer still counts, its own bytes tell whoever reads it (`nodes.peers.lookup`): the
store is not told of changes. NAME is that of the node, of several on one store: each hears the
changes of others at a time of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from nodes.store.keyspace import Keyspace

__all__ = ["PeerAnswers"]


class PeerAnswers:
    """The answers of all peers.

    :param connection: that of the node's own reads: what is asked in one tick leaves in one write.
    :param node: tells this node from the others on the store, also after a restart.
    """

    def __init__(self, connection: Keyspace, node: bytes = b"") -> None:
        self._connection = connection
        self._node = node

    async def get(self, subjects: Sequence[bytes]) -> list[dict[str, bytes]]:
        """Give what is kept of some subjects.

        :param subjects: fingerprints, 8 bytes each.
        :return: for each, answers by province.
        :raises StoreUnavailableError: the store does not answer.
        """
        replies = await self._connection.ask([(b"HGETALL", self._key(each)) for each in subjects])
        return [
            {
                province.decode(): value
                for province, value in zip(reply[::2], reply[1::2], strict=True)
            }
            for reply in replies
        ]

    def put(self, province: str, subject: bytes, answer: bytes, expires: int) -> None:
        """Keep an answer; waits for nothing, and is no loss where it fails.

        :param subject: the fingerprint, 8 bytes.
        :param expires: Unix seconds.
        """
        until = b"%d" % expires
        putting = self._connection.execute(
            *(b"HSETEX", self._key(subject), b"EXAT", until),
            *(b"FIELDS", b"1", province.encode(), answer),
        )
        putting.add_done_callback(_let_go)

    def _key(self, subject: bytes) -> bytes:
        return b"p:{%b}%b" % (subject, self._node)


def _let_go(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()  # asked for, or the loop would complain that nobody did
