DROP TABLE seawall.breaker_transitions;
