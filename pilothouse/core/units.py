"""Names for the numbers and ids that travel everywhere."""

from typing import NewType

Micros = NewType("Micros", int)  # microseconds, a duration or a point on the driver's monotonic clock
Seconds = NewType("Seconds", float)  # how long a stage lasts: rates are per second
EndpointId = NewType("EndpointId", str)  # one engine that can be sent a request
RequestId = NewType("RequestId", str)  # unique among all requests of one dispatcher
BlockKey = NewType("BlockKey", int)  # 64-bit key of one KV block: its tokens and all that precede them

SECOND = Micros(1_000_000)
