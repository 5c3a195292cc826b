"""How busy each replica was over time: a bounded number of moments per stage, however long it lasts."""

from collections.abc import Sequence

from pilothouse.core.units import SECOND
from pilothouse.sim.agenda import Agenda, Rank
from pilothouse.sim.clients import StageResult
from pilothouse.sim.hosts import Host
from pilothouse.workload.outcomes import Sample


class Sampler:
    """Looks at all replicas in equal intervals. When there are too many moments, every second one goes, and the interval
    doubles. Reads only: a run with it and one without are the same."""

    def __init__(self, agenda: Agenda, hosts: Sequence[Host], moments_max: int) -> None:
        assert moments_max >= 2, "at least two moments"
        self._agenda, self._hosts, self._moments_max = agenda, hosts, moments_max
        self._every_us = 1

    def begin(self, result: StageResult) -> None:
        self._every_us = max(1000, int(2 * result.stage.seconds * SECOND / self._moments_max))
        self._look(result)

    def _look(self, result: StageResult) -> None:
        if not result.left:
            return
        now_us, samples, replicas = self._agenda.now_us, result.samples, len(self._hosts)
        if len(samples) >= self._moments_max * replicas:
            kept = range(0, len(samples), 2 * replicas)
            samples[:] = [sample for start in kept for sample in samples[start : start + replicas]]
            self._every_us *= 2
        at_s = (now_us - result.start_us) / SECOND
        for host in self._hosts:
            load = host.engine.load(now_us)
            samples.append(Sample(at_s, host.id, load.running, load.waiting, load.kv_used_ratio))
        self._agenda.push(now_us + self._every_us, Rank.SAMPLE, self._look, result)
