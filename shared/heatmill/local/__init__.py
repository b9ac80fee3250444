"""The embedded stack behind `heatmill up`: the real parts, on this machine, on loopback only."""
