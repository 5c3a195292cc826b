"""What a connector asks of whoever speaks to both engines: what is added to each step, and what must be known for that.

The prefill step is the client's request for one token; the decode step is the client's request. Facts per connector are in
docs/engines.md.
"""

from dataclasses import dataclass
from typing import Any

from pilothouse.wire.transfer.answer import Prefilled

Fields = dict[str, Any]  # of a JSON body
PARAMETERS = "kv_transfer_params"  # where vLLM looks for a connector's own fields


class Unusable(Exception):
    """What the prefill engine said cannot be used; `kept` is false if it only did not keep the KV."""

    def __init__(self, what: str, *, kept: bool = True) -> None:
        super().__init__(what)
        self.kept = kept


@dataclass(frozen=True, slots=True)
class Transfer:
    """One prompt's way from one engine to another."""

    name: str  # both engines know the request by it (`x-request-id`); no other transfer ever has the same
    host: str  # of the prefill engine
    port: int  # configured, or the connector's usual one

    @property
    def server(self) -> str:
        """Base URL of what listens at that port, if it speaks HTTP."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class Adapter:
    """Engines that share a store: nothing is added, and the decode engine finds what is there by the prompt itself."""

    port = 0  # the usual one
    together = False  # both steps are sent at once; otherwise the decode step follows the prefill's answer
    leased = False  # parameters claim KV that is kept for a while; after that it may be another prompt's
    salted = True  # prompts of different `cache_salt` are kept apart

    def prefill(self, transfer: Transfer) -> Fields:
        """Added to the prefill step."""
        return {}

    def asks(self, transfer: Transfer) -> str:
        """The path at the transfer's server of something that has to be known for the decode step; "" = nothing."""
        return ""

    def decode(self, transfer: Transfer, prefilled: Prefilled | None, told: bytes) -> Fields:
        """Added to the decode step. Raises Unusable.

        prefilled   what the prefill step gave; None if both are sent together
        told        the answer to `asks`
        """
        return {}
