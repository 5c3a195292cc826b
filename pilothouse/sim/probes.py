"""Health checks of engines, as each gateway makes them, told only where they can change something.

A live gateway checks every engine all the time. An engine in good standing that answers is no news to the dispatcher, so
the simulator checks from the first trouble on until everybody is in good standing again.
"""

from typing import TYPE_CHECKING

from pilothouse.core.events import BlocksCleared, LoadReported, Probed
from pilothouse.core.units import Micros
from pilothouse.sim.agenda import Rank
from pilothouse.sim.hosts import Host

if TYPE_CHECKING:
    from pilothouse.sim.driver import Driver


class Probes:
    """All engines are checked at whole multiples of the interval."""

    def __init__(self, driver: "Driver") -> None:
        self._driver, self._due = driver, False

    def look(self) -> None:
        """Something may be wrong: sees to it that the next round takes place."""
        if not self._due:
            self._due = True
            every_us, now_us = self._driver.delays.probe_us, self._driver.now_us
            self._driver.agenda.push(now_us - now_us % every_us + every_us, Rank.SCRAPE, self._round, None)

    def _round(self, _: object) -> None:
        driver, self._due = self._driver, False
        if driver.clients.over:
            return
        now_us, delays = driver.now_us, driver.delays
        hosts = [host for host in driver.hosts.values() if now_us >= host.ready_us]
        for host in hosts:
            if now_us < host.probe_us:
                continue  # the last check waits for its answer
            if host.cut_off:
                told_us = now_us + delays.probe_timeout_us
                host.probe_us = Micros(told_us + delays.probe_us)
            else:
                told_us = now_us + 2 * delays.network_us
            driver.agenda.push(told_us, Rank.TELL, self._told, (host, host.is_open))
        if any(not host.is_open or host.restarted or not self._in_good_standing(host) for host in hosts):
            self.look()

    def _told(self, what: tuple[Host, bool]) -> None:
        host, ok = what
        if ok and host.restarted:
            self._recognise(host)
        elif not ok and host.well:
            self.look()
        for i, gateway in enumerate(self._driver.gateways):
            endpoint = gateway.dispatcher.fleet.endpoints[host.id]
            if not ok or endpoint.ejected or endpoint.probe_failures:
                self._driver.tell(i, Probed(self._driver.now_us, host.id, ok))
        host.well = ok

    def _recognise(self, host: Host) -> None:
        """Its metrics say that another process answers, which holds nothing."""
        driver, host.restarted = self._driver, False
        if host.forget:
            host.forget = False
            driver.tell_all(BlocksCleared(driver.now_us, host.id))
        if driver.delays.scrape_us and not host.unscraped:
            load = host.engine.load(driver.now_us)
            event = LoadReported(driver.now_us, host.id, load.running, load.waiting, load.kv_used_ratio)
            driver.tell_all(event)

    def _in_good_standing(self, host: Host) -> bool:
        known = [gateway.dispatcher.fleet.endpoints[host.id] for gateway in self._driver.gateways]
        return host.well and not any(endpoint.ejected or endpoint.probe_failures for endpoint in known)
