"""The three fleets of the tests.

- `in_process`: hub and nodes as objects of one process, with the clock, the messages and the disks in a test's hand.
- `linked`: a real hub, and agents that speak the real link and do as a test tells them.
- `processes`: hubs, agents, routers and engines as real processes, started by the commands that people use.
"""
