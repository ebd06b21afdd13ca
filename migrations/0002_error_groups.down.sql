DROP TABLE seawall.error_groups;
