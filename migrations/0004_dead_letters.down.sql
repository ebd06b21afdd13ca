DROP TABLE seawall.dead_letters;
