"""A scorer needs one test: hand it a decision and look at its answer."""

from pilothouse_spread import Knee

from pilothouse.core.events import Arrived, EndpointSeen
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known
from pilothouse.core.units import EndpointId, Micros, RequestId

NOW = Micros(0)


def fleet(*in_flight: int) -> Known:
    seen = [EndpointSeen(NOW, EndpointId(f"e{i}"), "http://e", "pool", ["m"]) for i in range(len(in_flight))]
    endpoints = [Endpoint(s, frozenset(s.models), in_flight=n) for s, n in zip(seen, in_flight, strict=True)]
    none = [0] * len(endpoints)
    return Known(NOW, endpoints, none, none, [None] * len(endpoints), none, None, turn=0, seed=0)


def test_it_is_flat_up_to_the_knee_and_falls_behind_it() -> None:
    arrived = Arrived(NOW, RequestId("r"), "m", 100, [])
    assert Knee(requests=4).score(arrived, fleet(0, 3, 7)) == [1.0, 1.0, 0.5]
