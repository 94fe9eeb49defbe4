"""The fault campaign: a lab under mixed load in which parts are killed, cut off, frozen and filled up, at random.

`python -m bench.faults` (docs/faults.md). `kinds` says which faults there are and in which order they come, `inject`
does them, `restart` does what systemd does; `load` sends the traffic, `changes` changes the configuration, `watch`
looks at memory and descriptors; `events`, `promises` and `bills` judge, `report` and `plot` tell.
"""
