"""The loop: the only place where phases meet. Each file is one journey through them.

project     a folder with a treadle.yaml, its spec and its state, opened once a command
chain       data digest → step digest → model → verdict → release → observed: what would run
turn        one turn: walks that chain and does the difference
watch       the return half: traffic → windows → findings → retrain or not
decide      a person's moves: approve, rollback
service     the running service: status, predict, score, logs, down
trace       explain, lineage, ledger
collect     which blobs nothing needs any more
"""
