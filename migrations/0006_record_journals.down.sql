DROP TABLE seawall.record_journals;
