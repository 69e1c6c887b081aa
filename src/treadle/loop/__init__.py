"""The loop: the only place where phases meet. Each file is one journey through them.

project     a folder with a treadle.yaml, its spec and its state, opened once a command
chain       what is known about the next turn, and the keys of its links
walk        fills the chain in: what would run, and why
datasets    snapshots and checks; checker runs them in a process of its own
learn       data to verdict: a run and its records
baseline    what a release is later compared with
decide      promotion, a person's approval, rollback
service     the running service: roll out, status, predict, score, logs, down
batch       environments that score with another's champion
cluster_batch  the same, where a cluster scores
turn        one turn: walks the chain and does the difference; outcome, recovery
truth       what became known later
monitor     one look at the traffic: windows, findings, retrain or not
watch       looks again and again, and turns
trace       lineage and explain; ledger
collect     which blobs nothing needs any more
adopt, doctor, unit, demo    init, the machine, the service file, the year
"""
