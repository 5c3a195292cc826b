"""What can go wrong, named by what to do about it.

PilothouseError
  ConfigError      a list of problems, each with the place; start-up stops
  ClientError      the request is at fault; answered 4xx, no engine time spent
  UpstreamError    the engine is at fault; another one may be tried if no byte was sent
  JournalError     a journal cannot be read or does not belong to this version
  PolicyError      a policy broke its contract; live falls back, tests raise
"""

import msgspec


class PilothouseError(Exception):
    """The root: everything raised on purpose."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a configuration: `where` is a path such as `pools[0].endpoints[1].url`."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(PilothouseError):
    """All problems of one configuration together, so that they can be mended in one go."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class ClientError(PilothouseError):
    """A request that no engine should see; `param` names the field, `status` the HTTP status."""

    def __init__(self, what: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        self.param, self.status, self.code = param, status, code
        super().__init__(what)


class UpstreamError(PilothouseError):
    """An engine that did not answer as it should."""

    def __init__(self, endpoint: str, what: str) -> None:
        self.endpoint = endpoint
        super().__init__(f"{endpoint}: {what}")


class JournalError(PilothouseError):
    """A journal that cannot be read."""


class PolicyError(PilothouseError):
    """A policy that broke its contract: wrong length, or a score outside [0, 1]."""
