"""One life of an emulated engine: all that a real one loses when its process ends."""

from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.core.random_stream import stream
from pilothouse.emulate.cache_config import cache_config
from pilothouse.emulate.filler import Words
from pilothouse.emulate.generation import Generation
from pilothouse.emulate.kv_publisher import KvPublisher
from pilothouse.emulate.loras import Loras
from pilothouse.emulate.metrics import EngineMetrics
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.prompts import Prompts
from pilothouse.emulate.replica import Replica
from pilothouse.emulate.settings import Settings
from pilothouse.emulate.transfer import Let, Link, engine_id
from pilothouse.live.clock import Clock
from pilothouse.sim.engine import Engine


@dataclass(slots=True, eq=False)
class Life:
    """Empty cache, new counts, a time of start."""

    settings: Settings
    prompts: Prompts
    clock: Clock
    loras: Loras
    publisher: KvPublisher | None
    metrics: EngineMetrics
    replica: Replica
    generation: Generation

    def end(self) -> None:
        self.generation.close()
        self.replica.close()
        if self.publisher is not None:
            self.publisher.close()
            self.publisher = None


def begin(
    settings: Settings, prompts: Prompts, words: Words, name: str, address: Callable[[], tuple[str, int]],
    kv_ports: tuple[int, int], factor: float, others: dict[str, Let],
) -> Life:  # fmt: skip
    """`name` is another one for each life, so that luck is too. `others`: engines of this process that hand KV to each
    other, of which this is one from now on. Raises ConfigError if an address is taken."""
    wanted, clock = settings.wanted, Clock()
    loras = Loras(settings.served, settings.loras)
    publisher = KvPublisher(address()[0], kv_ports, clock.wall_s) if wanted.kv_events else None
    metrics = EngineMetrics(
        settings.served, wanted.max_model_len, cache_config(settings), len(settings.loras), clock.wall_s()
    )
    publish = publisher.publish if publisher else None
    engine = Engine(settings.spec, reporting=publish is not None)
    link = Link(engine_id(wanted.seed, name), wanted.transfer_gb_per_s * 1e3, settings.kv_bytes, others)
    replica = Replica(engine, Pace(clock, factor), metrics, link, publish, wanted.queued_max)
    luck = stream(wanted.seed, f"emulate/{name}")
    generation = Generation(settings, prompts, words, replica, loras, luck, address, link.engine)
    return Life(settings, prompts, clock, loras, publisher, metrics, replica, generation)
