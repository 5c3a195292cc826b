"""The routing policies that ship, by name: each a profile that could have been written in YAML."""

from pilothouse.core.selection import Named, Profile
from pilothouse.policies.deciders import Pays, Threshold
from pilothouse.policies.marginal import MarginalCost
from pilothouse.policies.pickers import Best, Random, RoundRobin
from pilothouse.policies.queues import ShortQueues
from pilothouse.policies.scorers import CacheAndLoad, LeastRequests, Session

DEFAULT = "marginal_cost"
SPLIT_LONG = Threshold()  # of policies that learn no speeds

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("marginal_cost", [], [Named("marginal_cost", MarginalCost())], Best(), ShortQueues(), Pays()),
        Profile("cache_and_load", [], [Named("cache_and_load", CacheAndLoad())], Best(), None, SPLIT_LONG),
        Profile("least_requests", [], [Named("least_requests", LeastRequests())], Best(), None, SPLIT_LONG),
        Profile(
            "session_affinity",
            [],
            [Named("session", Session(), 2.0), Named("least_requests", LeastRequests())],
            Best(),
            None,
            SPLIT_LONG,
        ),
        Profile("round_robin", [], [], RoundRobin(), None, SPLIT_LONG),
        Profile("random", [], [], Random(), None, SPLIT_LONG),
    )
}
