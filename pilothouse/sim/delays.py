"""How late everything is in a simulated fleet."""

import msgspec

from pilothouse.core.units import SECOND, Micros


class Delays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times between the parts of a fleet, and the timeouts of the gateway [microseconds]."""

    client_us: Micros = Micros(0)  # from the scheduled send time to the gateway
    network_us: Micros = Micros(500)  # between gateway and engine, each way
    kv_event_us: Micros = Micros(5_000)  # from the end of a step to the gateway's index
    scrape_us: Micros = Micros(1_000_000)  # between load reports; 0 = there are none
    scraped_us: Micros = Micros(5_000)  # age of a load report when it arrives
    tokenise_us: Micros = Micros(0)  # per 1,000 prompt tokens, in the gateway; prompts do not wait for each other
    # As the gateway's own defaults in `config/schema.py`:
    probe_us: Micros = SECOND  # between two checks of an engine's health
    probe_timeout_us: Micros = Micros(3 * SECOND)  # until a check without an answer has failed
    connect_timeout_us: Micros = Micros(2 * SECOND)  # until a connection without an answer has failed
    # As the connectors' own defaults in `config/schema.py`:
    lease_us: Micros = Micros(30 * SECOND)  # how long a prefill engine keeps what nobody fetches
    handover_us_max: Micros = Micros(15 * SECOND)  # until the gateway gives up a handover: well before the lease ends

    def request_us(self, prompt_tokens: int) -> int:
        """From the scheduled send time to the decision."""
        return self.client_us + prompt_tokens * self.tokenise_us // 1000
