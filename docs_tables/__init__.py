"""The tables of README.md and docs/, made from result files.

A page says ``<!-- table: NAME -->`` and ``<!-- /table -->`` where a table stands; ``make
docs-tables`` writes what is between, and a test fails where it is not what the files say. A table
is a line of :data:`docs_tables.results.TABLES` or :data:`docs_tables.performance.TABLES`.
"""
