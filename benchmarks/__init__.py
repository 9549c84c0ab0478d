"""How metaproxy compares with nginx on this machine, and how long and how much its life takes."""
