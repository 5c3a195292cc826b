"""Who holds which prefix blocks: reported by the engine (exact) or concluded from our own routes (assumed).

Both kinds lie in the same masks, so one lookup serves a mixed fleet. A route adds its prompt's missing blocks to the
endpoint at once, as a *claim*: a burst of requests with one prefix then meets on one engine before it has reported
anything. A claim ends when the engine reports the block stored or removed, when an assumed engine's first token shows
it computed, or when it is withdrawn: at once if the request failed before its prefill, `speculation_us` after the
first token if no report came.

An endpoint is a slot, a bit in the masks. Clearing it means taking a fresh slot; the old bit is swept out a bounded
number of entries at a time, and its slot used again afterwards.
"""

from collections import deque
from collections.abc import Sequence

from pilothouse.core.assumed import BLOCKS_UNKNOWN, Lru
from pilothouse.core.claims import CLAIMED_MAX, Claims
from pilothouse.core.events import EndpointSeen, Tier
from pilothouse.core.holders import prefix_lengths, slots_of
from pilothouse.core.kvendpoint import Candidate, Claim, Known
from pilothouse.core.kvstate import (
    ClaimState,
    EndpointState,
    Group,
    IndexState,
    IndexStats,
    KnownStats,
    Prefixes,
    StoreState,
)
from pilothouse.core.lower import HBM, LEVELS, REMOTE, TIERS, Layers, reaches
from pilothouse.core.slots import SWEEP_ENTRIES, Slots
from pilothouse.core.units import SECOND, BlockKey, EndpointId, Micros, RequestId

SPECULATION_US = Micros(2 * SECOND)  # engines report with the step that computed; this covers a slow feed


class KvIndex:
    """Reports and routes in, prefix lengths out."""

    def __init__(self, blocks_max: int = 2_000_000, speculation_us: Micros = SPECULATION_US) -> None:
        self.speculation_us = speculation_us
        self.ignored = 0  # blocks reported by endpoints that are unknown or not exact
        self._known: dict[EndpointId, Known] = {}
        self._open: dict[RequestId, Claim] = {}
        self._expiring: deque[Claim] = deque()  # in order of expiry, since all last equally long
        self._serial = 0
        self._slots = Slots()
        self._layers = Layers(blocks_max, self._slots)
        self._hbm, self._stores = self._layers.hbm, self._layers.stores
        # The last prompt looked up, with what the answer depends on: a route asks for the same prompt once more.
        self._asked: Sequence[BlockKey] = ()
        self._asked_state = (-1, -1)
        self._lengths: list[int] = []

    # Endpoints

    def see(self, seen: EndpointSeen) -> None:
        """As `add`, from what was told of it."""
        kv = {"kv_blocks": seen.kv_blocks, "block_size": seen.block_size, "store_blocks": seen.store_blocks}
        self.add(seen.endpoint, exact=seen.exact, store=seen.store, **kv)

    def add(
        self,
        endpoint: EndpointId,
        *,
        exact: bool,
        kv_blocks: int,
        block_size: int,
        store: str = "",
        store_blocks: int = 0,
    ) -> None:
        """A new endpoint, or a new description. One that starts or stops reporting is forgotten and begins anew."""
        known = self._known.get(endpoint)
        if known is None or known.exact != exact:
            if known is not None:
                self.remove(endpoint)
            known = self._known[endpoint] = Known(endpoint, exact, kv_blocks, block_size, self._slots.take())
            known.used = None if exact else Lru(0)
        known.kv_blocks, known.block_size = kv_blocks, block_size
        if known.used is not None:
            known.used.capacity = kv_blocks or BLOCKS_UNKNOWN
        if known.store is not None and known.store.name != store:
            self._stores.leave(known.store, known.slot)
            known.store = None
        if store:
            known.store = self._stores.join(store, known.slot, store_blocks)

    def remove(self, endpoint: EndpointId) -> None:
        """The endpoint is gone and so is all it held."""
        known = self._known.pop(endpoint, None)
        if known is not None:
            known.gone = True
            if known.store is not None:
                self._stores.leave(known.store, known.slot)
            self._forget(known)

    def stored(self, endpoint: EndpointId, blocks: list[BlockKey], tier: Tier = Tier.HBM) -> None:
        """The endpoint reports blocks it now holds."""
        known = self._reporter(endpoint, blocks)
        if known is None:
            return
        level = LEVELS[tier]
        if level == REMOTE and known.store is not None:
            return self._layers.put(known.store, blocks)
        known.held[level] += self._layers.at(level).store(blocks, known.bit, self._layers.room)
        if level == HBM:
            known.claims.confirm(blocks)

    def removed(self, endpoint: EndpointId, blocks: list[BlockKey], tier: Tier = Tier.HBM) -> None:
        """The endpoint reports blocks it holds no more; that outweighs a claim on them."""
        known = self._reporter(endpoint, blocks)
        if known is None:
            return
        if tier is Tier.REMOTE and known.store is not None:
            self._layers.drop(known.store, blocks)
        else:
            self._take_off(known, blocks, LEVELS[tier])

    def cleared(self, endpoint: EndpointId) -> None:
        """The endpoint holds nothing: reset, restarted, or lost track of. What it put into a shared store is there."""
        known = self._known.get(endpoint)
        if known is None or not any(known.held):
            return
        before = known.slot
        self._forget(known)
        known.slot = self._slots.take()
        if known.store is not None:
            self._stores.join(known.store.name, known.slot, 0)
            self._stores.leave(known.store, before)
        self._slots.sweep(
            self._layers.there, 2 * SWEEP_ENTRIES
        )  # an endpoint that keeps clearing must not use up slots faster than they return

    # Lookups

    def lookup(self, blocks: list[BlockKey], candidates: Sequence[Candidate]) -> list[int]:
        """Per candidate: how many leading blocks of the prompt its HBM holds, claims included."""
        known, lengths = self._known, self._prefixes(blocks)
        return [lengths[known[candidate.id].slot] for candidate in candidates]

    @property
    def has_lower(self) -> bool:
        """Whether any block was ever reported below HBM."""
        return len(self._layers.there) > 1

    def lookup_tiers(self, blocks: list[BlockKey], candidates: Sequence[Candidate]) -> Prefixes:
        """The same for HBM alone, and for it together with the tiers below."""
        lower = self._layers.lower
        levels = reaches(self._hbm, [holders for _, holders in lower], blocks, self._stores)
        self._lengths, self._asked, self._asked_state = levels[0], blocks, (self._hbm.changes, self._slots.live)
        slots = [self._known[candidate.id].slot for candidate in candidates]
        hbm, *below = [[lengths[slot] for slot in slots] for lengths in levels]
        return Prefixes(hbm, [(tier, lengths) for (tier, _), lengths in zip(lower, below, strict=True)])

    # Requests

    def routed(
        self, request: RequestId, endpoint: EndpointId, blocks: list[BlockKey], now_us: Micros, block_size: int = 0
    ) -> None:
        """The request goes there: its prompt counts as held from now on.

        block_size   tokens per block of `blocks`, if that may differ from the engine's own; 0 = the same
        """
        if request in self._open:
            self.ended(request, now_us, computed=False)
        known = self._known.get(endpoint)
        if known is None or not blocks:
            return
        self._serial += 1
        if known.store is not None:
            known.store.use(blocks)
        if known.used is None:
            unsure = self._claimable(known, blocks)
            if not unsure:
                return  # all of it is reported: nothing to wait for
            known.held[HBM] += self._hbm.store(unsure, known.bit, self._layers.room)
        else:
            if block_size and known.kv_blocks and known.block_size:
                known.used.capacity = max(known.kv_blocks * known.block_size // block_size, 1)
            unsure = self._use(known, known.used, blocks)
            if known.claims.touches(blocks):
                unsure = _either(blocks, unsure, known.claims)
        if unsure:
            known.claims.add(self._serial, unsure)
        self._open[request] = Claim(request, known, self._serial, blocks, unsure)

    def prefilled(self, request: RequestId, now_us: Micros) -> None:
        """Its first token is here, so the prompt's blocks exist. An exact endpoint has yet to say so."""
        claim = self._open.get(request)
        if claim is None or claim.expires_us is not None or claim.known.gone:
            return
        if claim.known.used is not None:
            if claim.blocks:
                claim.known.claims.confirm(claim.known.claims.mine(claim.serial, claim.blocks))
        else:
            claim.expires_us = Micros(now_us + self.speculation_us)
            self._expiring.append(claim)

    def ended(self, request: RequestId, now_us: Micros, computed: bool) -> None:
        """The attempt is over. `computed` false: it ended before its prefill did."""
        if computed:
            self.prefilled(request, now_us)
        claim = self._open.pop(request, None)
        if claim is None or claim.known.gone:
            return
        if not computed:
            self._withdraw(claim)
        elif claim.known.used is not None:
            self._use(claim.known, claim.known.used, claim.prompt)  # the engine frees the prompt only now

    def expire(self, now_us: Micros) -> None:
        """Withdraws what is due, and sweeps a little. Cheap when there is nothing to do."""
        while self._expiring and _expiry(self._expiring[0]) <= now_us:
            claim = self._expiring.popleft()
            self._withdraw(claim)
            if self._open.get(claim.request) is claim:
                del self._open[claim.request]
        if self._slots.dirty:
            self._slots.sweep(self._layers.there, SWEEP_ENTRIES)

    def next_expiry_us(self) -> Micros | None:
        """When `expire` is due; None if nothing is pending. A sweep waits for the next event."""
        return _expiry(self._expiring[0]) if self._expiring else None

    # State

    def stats(self) -> IndexStats:
        """Counts for metrics and for the doctor."""
        each = [KnownStats(k.id, k.exact, k.held[HBM], sum(k.held[1:]), len(k.claims)) for k in self._known.values()]
        return IndexStats(
            blocks=sum(holders.size for holders in self._layers.there),
            holders=sum(k.hbm + k.lower for k in each),
            speculative=sum(k.speculative for k in each),
            refused=sum(holders.refused for holders in self._layers.there),
            ignored=self.ignored,
            sweeping=self._slots.dirty.bit_count(),
            endpoints=each,
            stores={name: len(store.used) for name, store in self._stores.by_name.items()},
        )

    def snapshot(self) -> IndexState:
        """All that later answers depend on, as plain data. Finishes the sweep first: this takes time, about as long
        as storing everything once."""
        while self._slots.dirty:
            self._slots.sweep(self._layers.there, self._layers.blocks_max)
        endpoints = list(self._known.values())
        stores = list(self._stores.by_name.values())
        shared = sum(store.bit for store in stores)
        position = {known.slot: i for i, known in enumerate(endpoints)}
        groups: list[Group] = []
        for tier, holders in [(Tier.HBM, self._hbm), *self._layers.lower]:
            keys: dict[int, list[BlockKey]] = {}
            for key, mask in holders.items():
                if mask & ~shared:
                    keys.setdefault(mask & ~shared, []).append(BlockKey(key))
            groups += [Group(tier, [position[slot] for slot in slots_of(mask)], keys[mask]) for mask in keys]
        claims = [_state(claim, True) for claim in self._open.values() if not claim.known.gone]
        ended = [c for c in self._expiring if self._open.get(c.request) is not c and not c.known.gone]
        claims += [_state(claim, False) for claim in ended]
        return IndexState(
            [_endpoint_state(known) for known in endpoints],
            groups,
            claims,
            self._serial,
            self.ignored,
            [StoreState(store.name, store.used.capacity, store.used.keys()) for store in stores],
        )

    def restore(self, state: IndexState) -> None:
        """Fills an empty index from a snapshot."""
        assert not self._known and not self._open, "restore needs an empty index"
        self._serial, self.ignored = state.serial, state.ignored
        for e in state.endpoints:
            self.add(e.endpoint, exact=e.exact, kv_blocks=e.kv_blocks, block_size=e.block_size, store=e.store)
            used = self._known[e.endpoint].used
            if used is not None:
                used.capacity = e.capacity
                for key in e.used:
                    used.touch([key])
        known = list(self._known.values())
        for s in state.stores:
            self._stores.by_name[s.name].used.capacity = s.capacity
            self._layers.put(self._stores.by_name[s.name], s.used[::-1])  # the head is used last
        for group in state.groups:
            level = LEVELS[group.tier]
            for i in group.holders:
                known[i].held[level] += self._layers.at(level).store(group.blocks, known[i].bit, self._layers.room)
        self._restore_claims(state.claims)

    def _restore_claims(self, states: list[ClaimState]) -> None:
        for s in states:
            claim = Claim(s.request, self._known[s.endpoint], s.serial, s.prompt, s.blocks, s.expires_us)
            claim.known.claims.add(s.serial, s.blocks)
            if s.open:
                self._open[s.request] = claim
            if s.expires_us is not None:
                self._expiring.append(claim)
        self._expiring = deque(sorted(self._expiring, key=lambda claim: (_expiry(claim), claim.serial)))

    # Parts

    def _prefixes(self, blocks: list[BlockKey]) -> list[int]:
        """Per slot: how many leading blocks of the prompt it holds."""
        state = (self._hbm.changes, self._slots.live)
        if state != self._asked_state or blocks != self._asked:
            self._lengths = prefix_lengths(self._hbm.spans(blocks), self._slots.live, self._slots.width)
            self._asked, self._asked_state = blocks, state
        return self._lengths

    def _reporter(self, endpoint: EndpointId, blocks: list[BlockKey]) -> Known | None:
        known = self._known.get(endpoint)
        if known is None or not known.exact:
            self.ignored += len(blocks)
            return None
        return known

    def _claimable(self, known: Known, blocks: list[BlockKey]) -> list[BlockKey]:
        """The blocks the endpoint has not reported, as many as there is room for."""
        claims = known.claims
        held = self._prefixes(blocks)[known.slot]
        missing = self._hbm.lacking(blocks[held:], known.bit) if held < len(blocks) else []
        if claims.touches(blocks):
            missing = _either(blocks, missing, claims)
        elif not missing:
            return missing
        room = max(min(CLAIMED_MAX - len(claims), self._layers.room), 0)
        self._hbm.refused += len(missing) - len(missing[:room])
        return missing[:room]

    def _use(self, known: Known, used: Lru, blocks: list[BlockKey]) -> list[BlockKey]:
        """An assumed endpoint computes or reuses this prompt; what no longer fits goes. Returns what is new there."""
        if used.renew(blocks):
            return []
        new = used.missing(blocks)
        room = max(self._layers.room, 0)
        if len(new) > room:
            self._hbm.refused += len(new) - room
            blocks, new = blocks[: blocks.index(new[room])], new[:room]
        known.held[HBM] += self._hbm.store(new, known.bit, room)
        gone = used.touch(blocks)
        if gone:
            self._take_off(known, gone, HBM)
            new = [key for key in new if key in used]
        return new

    def _take_off(self, known: Known, blocks: list[BlockKey], level: int) -> None:
        if level == HBM:
            known.claims.confirm(blocks)
        if level == HBM or known.held[level]:
            known.held[level] -= self._layers.at(level).remove(blocks, known.bit)

    def _withdraw(self, claim: Claim) -> None:
        """Takes back what this request alone claimed and nobody confirmed."""
        known = claim.known
        if not known.gone:
            alone = known.claims.withdraw(claim.serial, claim.blocks)
            if known.used is not None:
                known.used.drop(alone)
            self._take_off(known, alone, HBM)

    def _forget(self, known: Known) -> None:
        """All that an endpoint held: the bits of its slot mean nothing from now on."""
        self._slots.retire(known.slot, used=any(known.held))
        known.held = [0] * len(TIERS)
        known.claims.clear()
        if known.used is not None:
            known.used.clear()


def _either(blocks: list[BlockKey], some: list[BlockKey], claims: Claims) -> list[BlockKey]:
    """Those blocks of a prompt that are among `some` or claimed, in order."""
    chosen = set(some)
    return [key for key in blocks if key in chosen or key in claims]


def _expiry(claim: Claim) -> Micros:
    assert claim.expires_us is not None
    return claim.expires_us


def _state(claim: Claim, is_open: bool) -> ClaimState:
    mine = claim.known.claims.mine(claim.serial, claim.blocks)
    return ClaimState(claim.request, claim.known.id, claim.serial, claim.prompt, mine, claim.expires_us, is_open)


def _endpoint_state(known: Known) -> EndpointState:
    used = known.used
    lru, capacity = (used.keys(), used.capacity) if used is not None else ([], 0)
    store = known.store.name if known.store is not None else ""
    return EndpointState(known.id, known.exact, known.kv_blocks, known.block_size, capacity, lru, store)
