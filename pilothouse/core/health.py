"""Which endpoints are fit for new requests, from what requests and probes met there. Theory of operation:

An endpoint is ejected when it cannot be reached, when `failures_max` attempts in a row failed on it, or when
`probe_failures_max` active checks in a row did. It comes back with a successful probe, not before its back-off is over;
the back-off doubles with each ejection in a row and is forgotten with the first finished request. A full queue is no
illness: the endpoint then takes no more than it held at the refusal, for a while.
"""

import msgspec

from pilothouse.core.events import FailureKind
from pilothouse.core.fleet import Endpoint, Fleet
from pilothouse.core.units import SECOND, Micros

ROOM_FORGOTTEN = 64  # a learned limit this far above twice the load says nothing any more


class HealthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to stop sending, and when to start again."""

    failures_max: int = 3  # failed attempts in a row before ejection
    probe_failures_max: int = 2  # failed active checks in a row before ejection
    backoff_us_min: Micros = SECOND  # first ejection
    backoff_us_max: Micros = Micros(30 * SECOND)  # ceiling of the doubling
    busy_us: Micros = Micros(SECOND // 2)  # between a refusal and the first try with more, and between such tries


class Health:
    """Judges endpoints; the state lies in the endpoints themselves."""

    def __init__(self, fleet: Fleet, settings: HealthSettings) -> None:
        self._fleet, self._settings = fleet, settings

    def succeeded(self, endpoint: Endpoint) -> None:
        endpoint.failures = endpoint.ejections = 0

    def failed(self, endpoint: Endpoint, kind: FailureKind, now_us: Micros) -> None:
        if kind is FailureKind.BUSY:
            endpoint.room = endpoint.in_flight
            endpoint.room_grows_at_us = Micros(now_us + self._settings.busy_us)
            return
        endpoint.failures += 1
        if kind is FailureKind.CONNECT or endpoint.failures >= self._settings.failures_max:
            self._eject(endpoint, now_us)

    def has_room(self, endpoint: Endpoint, now_us: Micros) -> bool:
        """Whether it may take one more, after what its last refusal taught. The limit grows by an eighth each time."""
        while endpoint.room is not None and now_us >= endpoint.room_grows_at_us:
            endpoint.room += 1 + endpoint.room // 8
            endpoint.room_grows_at_us = Micros(endpoint.room_grows_at_us + self._settings.busy_us)
            if endpoint.room > ROOM_FORGOTTEN + 2 * endpoint.in_flight:
                endpoint.room = None  # far beyond what it is asked to hold
        return endpoint.room is None or endpoint.in_flight < endpoint.room

    def next_growth_us(self, endpoint: Endpoint, now_us: Micros) -> Micros:
        """When its learned limit grows next; never in the past, even if nobody has looked for a while."""
        later = Micros(now_us + self._settings.busy_us)
        return endpoint.room_grows_at_us if endpoint.room_grows_at_us > now_us else later

    def probed(self, endpoint: Endpoint, ok: bool, now_us: Micros) -> bool:
        """Takes the outcome of an active check. True if the checks say just now that it does not answer."""
        if ok:
            endpoint.probe_failures = 0
            if endpoint.ejected and now_us >= endpoint.retry_at_us:
                endpoint.ejected, endpoint.failures = False, 0
                self._fleet.changed()
            return False
        endpoint.probe_failures += 1
        if endpoint.probe_failures < self._settings.probe_failures_max:
            return False
        self._eject(endpoint, now_us)
        return endpoint.probe_failures == self._settings.probe_failures_max

    def _eject(self, endpoint: Endpoint, now_us: Micros) -> None:
        if endpoint.ejected:
            return
        backoff = min(self._settings.backoff_us_max, self._settings.backoff_us_min << min(endpoint.ejections, 16))
        endpoint.ejected, endpoint.retry_at_us = True, Micros(now_us + backoff)
        endpoint.ejections += 1
        self._fleet.changed()
