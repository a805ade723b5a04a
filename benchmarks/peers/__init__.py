"""The quantizers that ours is measured against, each run in a process of its own in the peers' environment.

These modules import nothing of this repository but `measuring`: the environment has no quantrig.
"""
