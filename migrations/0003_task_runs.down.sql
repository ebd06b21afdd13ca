DROP FUNCTION seawall.maintain_task_runs(interval, interval, integer);
DROP FUNCTION seawall.add_task_runs_day(date);
DROP FUNCTION seawall.task_runs_day(date);
DROP TABLE seawall.task_runs;
