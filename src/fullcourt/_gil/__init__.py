"""The referee, seen: what the GIL of a running program did, measured from outside and drawn.

The sampler is a small process of its own that imports only the modules of this package that say so at their heads, and
little of the standard library, so that it starts in some 20 ms.
"""
