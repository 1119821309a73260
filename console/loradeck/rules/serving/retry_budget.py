"""How many requests are asked a second time after an engine or a node has failed them.

Without a bound, what fails because it is overloaded would be asked as often again as there are engines. A share of all
requests is the bound that Finagle and Envoy have for it (Envoy's documentation, "Circuit breaking", retry budgets).
"""

from dataclasses import dataclass

SHARE = 0.1
"""Second requests for each first one, in the long run."""

MOST = 100.0
"""Second requests that may come at once: what is under way on an engine that has just ended."""


@dataclass(slots=True)
class RetryBudget:
    """The second requests that may still be sent. `left` grows with each first request."""

    left: float = MOST

    def asked(self) -> None:
        """Counts a first request."""
        self.left = min(MOST, self.left + SHARE)

    def take(self) -> bool:
        """Takes one second request. False: there is none left, and the caller gets the failure."""
        if self.left < 1:
            return False
        self.left -= 1
        return True
