"""Who may call what: the contract's ``(tongxing.v1.callers)`` option, and nothing else.

Default deny: a method without the option, or unknown here, may be called by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from exchange.errors import CallerNotAllowedError
from exchange.v1 import options_pb2
from nodes.identity import Identity, Role

# protoc's stub leaves out what it extends.
_CALLERS: Any = options_pb2.callers
_OWN_PROVINCE: Any = options_pb2.own_province

__all__ = ["Authorization", "callers_of"]


def callers_of(service: ServiceDescriptor) -> dict[str, frozenset[Role]]:
    """The roles that may call each method, by path (``/tongxing.v1.PeerService/…``)."""
    return {
        f"/{service.full_name}/{method.name}": frozenset(
            Role(options_pb2.Role.Name(role).removeprefix("ROLE_").lower())
            for role in method.GetOptions().Extensions[_CALLERS]
            if role != options_pb2.ROLE_UNSPECIFIED
        )
        for method in service.methods
    }


class Authorization:
    """The callers of a province's node.

    :param province: the node's own; issuers, apps and admins must be of it, nodes of any, where the
        method's option ``own_province`` does not say otherwise. None for a registry, which serves
        all provinces alike.
    """

    def __init__(self, province: str | None, services: Iterable[ServiceDescriptor]) -> None:
        self._province = province
        self._callers: dict[str, frozenset[Role]] = {}
        self._own_alone: set[str] = set()
        """The methods for which nodes, too, must be of the own province."""
        for service in services:
            self._callers |= callers_of(service)
            self._own_alone |= {
                f"/{service.full_name}/{method.name}"
                for method in service.methods
                if method.GetOptions().Extensions[_OWN_PROVINCE]
            }

    def check(self, path: str, caller: Identity) -> None:
        """Let a caller through.

        :raises CallerNotAllowedError: the method is not for it.
        """
        allowed = self._callers.get(path, frozenset())
        if caller.role not in allowed:
            roles = " or ".join(sorted(role.value for role in allowed)) or "nobody"
            raise CallerNotAllowedError(
                f"{path.rpartition('/')[2]} is for {roles}, and the caller is {caller.role.value}"
            )
        if self._province is None:
            return
        if caller.role is Role.NODE and path not in self._own_alone:
            return
        if caller.province != self._province:
            raise CallerNotAllowedError(
                f"the caller is of {caller.province}, and this node serves {self._province}",
                remedy="call your own province's node",
            )
