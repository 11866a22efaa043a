"""What every service agrees on: schemas, intervals, sessions, instruments. No IO and no clock."""
