"""Raters that are simulated: what alpha and the tests of raters find, and how often they are wrong."""
