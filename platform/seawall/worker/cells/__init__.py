"""A worker as a supervisor and its cells.

`supervisor.py` is the Celery node that the cluster sees; `pool.py` forks the cells and watches them;
`cell.py` is one of those processes: it claims, admits, runs and settles its own work. They share a table in
memory (layout in `table.py`) and one small pipe each (`channel.py`; what is said on it stands at `Cell.hear`
and `Pool.hear`).
"""
