"""Pure decisions: no input or output, no clock, no randomness. What time it is comes in as an argument.

Everything here is a function of what it is given. A rule that forbids something raises
`errors.Refused`, whose code is stable; whoever calls changes nothing when it is raised.
"""
