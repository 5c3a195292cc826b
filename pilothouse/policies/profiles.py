"""The routing policies that ship, by name: each a profile that could have been written in YAML."""

from pilothouse.core.selection import Named, Profile
from pilothouse.policies.marginal import MarginalCost
from pilothouse.policies.pickers import Best, Random, RoundRobin
from pilothouse.policies.queues import ShortQueues
from pilothouse.policies.scorers import CacheAndLoad, LeastRequests, Session

DEFAULT = "marginal_cost"

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("marginal_cost", [], [Named("marginal_cost", MarginalCost())], Best(), ShortQueues()),
        Profile("cache_and_load", [], [Named("cache_and_load", CacheAndLoad())], Best()),
        Profile("least_requests", [], [Named("least_requests", LeastRequests())], Best()),
        Profile(
            "session_affinity",
            [],
            [Named("session", Session(), 2.0), Named("least_requests", LeastRequests())],
            Best(),
        ),
        Profile("round_robin", [], [], RoundRobin()),
        Profile("random", [], [], Random()),
    )
}
