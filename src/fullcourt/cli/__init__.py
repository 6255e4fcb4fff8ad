"""The command `fullcourt`: `map`, `doctor`, `demo`."""
