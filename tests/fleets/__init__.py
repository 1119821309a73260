"""The three fleets of the tests.

- `in_process`: hub and nodes as objects of one process, with the clock, the messages and the disks in a test's hand.
  `rules` has a hub and nodes that are nothing but decisions of `loradeck.rules`, `parts` those made of the product's
  own parts, and `simulated` whole hubs and agents in a world of its own; `log` is the log of the first two.
- `linked`: a real hub, and agents that speak the real link and do as a test tells them.
- `processes`: hubs, agents, routers and engines as real processes, started by the commands that people use.
"""
