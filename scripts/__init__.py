"""Entry points: wiring only. In a wheel this folder is `cql/scripts`."""
