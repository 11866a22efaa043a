"""The tables, one module each: what is written in a transaction of persistence, and what is read in a look."""
