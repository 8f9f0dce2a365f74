"""Rate limits that slow requests down before they refuse them.

Each key (an address, an account, a person) may make a burst of requests and then one per interval. This is the
generic cell rate algorithm (ITU-T I.371): all that is kept of a key is the time at which its next request is due. A
request that comes early waits for its turn; one that would wait for too long is refused and told when to come again. A
refused request is not counted, so that a flood does not lengthen anybody's wait.
"""

import asyncio
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from align.review.errors import TooMany

MOST_KEYS = 20_000  # kept at once


@dataclass(frozen=True)
class Rate:
    """How often a key may be used.

    Attributes:
        burst: requests that may come at once.
        interval: seconds per request after that.
        patience: seconds that a request waits for its turn at most.
        refuses: refuse what would wait longer; otherwise let it through after `patience`.
    """

    burst: int
    interval: float
    patience: float = 0.0
    refuses: bool = True


RATES = {
    # A wrong password is counted by three. The strictest counts one account from one address, which nobody elsewhere
    # can use up. All addresses together make an account slow to sign in to, never impossible.
    "login-address": Rate(burst=30, interval=2.0, patience=10.0),
    "login-address-account": Rate(burst=8, interval=10.0, patience=10.0),
    "login-account": Rate(burst=50, interval=1.0, patience=2.0, refuses=False),
    "password": Rate(burst=8, interval=10.0, patience=10.0),  # the old password, in a change of password
    "invite": Rate(burst=20, interval=3.0, patience=10.0),  # unknown links
    "rating": Rate(burst=1200, interval=0.05),
    "page": Rate(burst=600, interval=0.1),
}


class Limiter:
    """Counts in this process.

    Args:
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        rates: what may be counted.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rates: dict[str, Rate] = RATES,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self.rates = rates
        self._due: dict[tuple[str, str], float] = {}

    async def hit(self, *uses: tuple[str, str]) -> None:
        """Count one request for every (rate, key), and wait until all of them allow it.

        Raises:
            TooMany: one of them refuses it.
        """
        now = self.clock()
        waits = [self._wait(self.rates[name], self._due.get((name, key), now), now) for name, key in uses]
        refused = [
            wait
            for wait, (name, _) in zip(waits, uses, strict=True)
            if wait > self.rates[name].patience and self.rates[name].refuses
        ]
        if refused:
            raise TooMany("too_many", retry_after=math.ceil(max(refused)))
        for wait, (name, key) in zip(waits, uses, strict=True):
            if wait <= self.rates[name].patience:  # otherwise the key is as late as it can be
                self._due[name, key] = max(self._due.get((name, key), now), now) + self.rates[name].interval
        if len(self._due) > MOST_KEYS:
            self._forget(now)
        longest = max(min(wait, self.rates[name].patience) for wait, (name, _) in zip(waits, uses, strict=True))
        if longest > 0:
            await self.sleep(longest)

    def refund(self, *uses: tuple[str, str]) -> None:
        """Take back what a request counted, because it succeeded."""
        for name, key in uses:
            if (name, key) in self._due:
                self._due[name, key] -= self.rates[name].interval

    @staticmethod
    def _wait(rate: Rate, due: float, now: float) -> float:
        """Seconds until a request may go, after a burst."""
        return max(0.0, due - now - (rate.burst - 1) * rate.interval)

    def _forget(self, now: float) -> None:
        """Drop the keys that are not being slowed, and of the others the half that is due first."""
        late = sorted(self._due.items(), key=lambda entry: entry[1] - now)
        self._due = dict(entry for entry in late[len(late) // 2 :] if entry[1] > now)


def network(address: str) -> str:
    """The key of a client's address: an IPv6 network of 64 bits is one subscriber."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
