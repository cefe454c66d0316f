"""The bus broken on purpose: scenarios of faults, and a witness that counts what they did.

python -m tests.torture [SCENARIO ...] [--seed N] [--bug NAME] [--short] [--list] [--json]

scenario.py   what a scenario is; where all of them are listed
verdict.py    the counts, their table and JSON
county.py     contract, departments and tables; who may have what, written by hand
desks.py      plain SQL against SQLite and PostgreSQL
writers.py    clerks who change the sources without pause and keep an own log
witness.py    reads every recipient during the run and at the end, and decides
foreign.py    a consumer from outside: no commit is ever ahead of what was delivered
world.py      the servers, and our processes as children that can be killed one by one, or by `up`
spoil.py      sets a recipient's copy back by SQL
asked.py      commands that people type, and type again until they are told that all is well
accounts.py   jobs, acts and answers to proofs: each done once, each told, none left lying
launch.py     becomes a worker, an adapter, operations or `up` with patches put in
patches.py    planted bugs that several scenarios use, and moments at which a child kills itself
"""
